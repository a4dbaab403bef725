"""A newcomer's own phrasings with the answers that would be right, written by hand and not by the templates.

Each entry is a list of turns: user, assistant, user, ..., and last the expected answer. A sum above 20 without thinking
is expected with its working, as the model is taught to answer. The list was written before training and not changed after it;
a few of the shortest (`say potato`, `2+2?`) happen to be what a template can also give.
"""
import chat
import talk

HELLO, SORRY, UNKNOWN = "Hello! How can I help you?", talk.SORRY, talk.UNKNOWN
THANKS, BYE = "You are welcome.", "Goodbye! Have a nice day."
HOW, SIZE = "I am fine, thank you. What can I do for you?", "I am very small: I have about four million parameters."
MADE = "I was trained from scratch by the Hadal project on text that a program made up."
HADAL = "Hadal is a program that runs DeepSeek-V4 models on many kinds of hardware."
KEEP = "I will remember that."


def work(a, op, b):
    import data
    r = a + b if op == "+" else a - b
    return data.Gen.trace(a, op, b) + f"\n{a} {op} {b} = {r}."


CHATS = [
    ["heyy", HELLO], ["hello, is anyone there?", HELLO], ["hi hadal!! good to see you", HELLO], ["hello my little friend", HELLO],
    ["hi who are you", talk.ME], ["so who exactly am i talking to here", talk.ME], ["tell me your name", talk.ME],
    ["and what might your name be?", talk.ME], ["what sort of AI is this", talk.ME], ["Are you a bot or a person?", talk.ME],
    ["ok cool what can you actually do", talk.CAN], ["what kinds of things can i ask you", talk.CAN], ["how could you be of help", talk.CAN],
    ["list your features", talk.CAN], ["i don't know what to ask", talk.CAN],
    ["hey how's it going today", HOW], ["how are you feeling this morning?", HOW], ["you doing ok?", HOW],
    ["thank you, that was helpful", THANKS], ["thanks so much hadal!", THANKS], ["ok bye now", BYE], ["good night, talk to you tomorrow", BYE],
    ["who was it that trained you", MADE], ["where did your training data come from?", MADE], ["how big is this model", SIZE],
    ["how many params have you got?", SIZE], ["what's this hadal thing", HADAL], ["could you explain what Hadal does?", HADAL],
    ["what's the capital of france", UNKNOWN], ["who won the world cup in 2014?", UNKNOWN], ["write me a poem about the sea", SORRY],
    ["can you translate hello into spanish", SORRY],
    ["what's 12 plus 30", work(12, "+", 30)], ["what is 12+30", work(12, "+", 30)], ["add up 45 and 38 for me", work(45, "+", 38)],
    ["17 + 25 equals?", work(17, "+", 25)], ["hey what is 100 minus 37", work(100, "-", 37)], ["can you do 250 - 125 please", work(250, "-", 125)],
    ["2+2?", "2 + 2 = 4."], ["whats five plus 3... I mean 5 plus 3", "5 + 3 = 8."], ["how much is 9 take away 4", "9 - 4 = 5."],
    ["If I have 8 apples and eat 3, how many remain?", "8 - 3 = 5."],
    ["repeat these words: apple banana cherry", "apple banana cherry"], ["please say the following: good morning world", "good morning world"],
    ["say potato", "potato"], ["can you write zebra tiger lion again", "zebra tiger lion"],
    ["hi, my name is Anna", KEEP, "so what's my name again?", "Your name is Anna."],
    ["I'm Tom and I live in Berlin.", KEEP, "which city do i live in", "You live in Berlin."],
    ["my dog's name is Rex", KEEP, "tell me my dog's name", "Your dog is called Rex."],
    ["please keep in mind that my code is 4711", KEEP, "ok what was my code?", "Your code is 4711."],
    ["The blue key is in the kitchen. The red key is in the garden. So where's the blue key?", "The blue key is hidden in the kitchen."],
    ["Lisa put the green book in the attic yesterday. Where is the green book now?", "The green book is hidden in the attic."],
    ["The code of the red door is 5512. I forgot, what code opens the red door?", "The code of the red door is 5512."],
    ["Read this: Ben lived near the lake. One day he found a golden ring under the bed. What was it that Ben found?", "Ben found a golden ring."],
    ["Anna lives in Rome. Peter lives in Paris. where's peter living?", "Peter lives in Paris."],
    ["Sam went to the park. He saw a black dog. What color was the dog?", "The dog was black."],
    ["Give me json for a person called Tom who is 31 years old and lives in Rome.", '{"name": "Tom", "age": 31, "city": "Rome"}'],
    ["make a json object: Mia is a teacher", '{"name": "Mia", "job": "teacher"}'],
    ["I'd like this in JSON format: The lamp costs 20 euros.", '{"item": "lamp", "price": 20}'],
    ["Hello there! What's 3 + 4?", "3 + 4 = 7."],
]


def rendered():
    """-> (prompt, answer) pairs in the chat encoding"""
    for turns in CHATS:
        roles = ("user", "assistant")
        text = chat.render([{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)])
        answer = turns[-1] + chat.EOS
        assert text.endswith(answer)
        yield text[: -len(answer)], answer
