"""The tools of the generated conversations: schemas, and one turn (question, call, result, answer) for each."""
from chat import js
from words import CITIES, COLOURS, DAYS, DEVICES, FOODS, FRUITS, NAMES, NUM, PLACES, THINGS, WEATHER, WORDS, made_up


def schema(name, description, required=None, **props):
    return {"name": name, "description": description, "parameters": {
        "type": "object", "properties": props, "required": required or list(props)}}


def text(description=None):
    return {"type": "string", **({"description": description} if description else {})}


NUMBER = {"type": "number"}
TOOLS = {t["name"]: t for t in [
    schema("get_weather", "Get the current weather of a city.", city=text("The name of the city.")),
    schema("calculator", "Calculate with two numbers.", a=NUMBER, b=NUMBER,
           op={"type": "string", "enum": ["add", "subtract", "multiply", "divide"]}),
    schema("read_file", "Read a text file.", path=text("The path of the file.")),
    schema("get_time", "Get the current time in a city.", city=text("The name of the city.")),
    schema("set_timer", "Start a timer.", minutes={"type": "integer"}),
    schema("send_message", "Send a message to a person.", to=text("Who gets it."), message=text()),
    schema("search", "Search the web.", query=text("What to look for.")),
    schema("add_event", "Add an event to the calendar.", title=text(), day=text("The day of the week.")),
    schema("switch", "Turn a device on or off.", device=text(), state={"type": "string", "enum": ["on", "off"]}),
    schema("get_price", "Get the price of an item.", item=text("The name of the item.")),
    schema("play_music", "Play a song.", title=text("The title of the song.")),
]}


def weather(g):
    city, temp, cond = g.pick(lambda: (g.c(CITIES) if g.r.random() < 0.9 else made_up(g.r).capitalize(), g.r.randint(0, 35), g.c(WEATHER)))
    q = g.ask(["What is the weather in {x}?", "How is the weather in {x} today?", "Tell me the weather in {x}.", "Is it warm in {x} right now?",
               "What is the weather like in {x}?", "Weather in {x}", "Is it raining in {x}?", "How warm is it in {x}?", "Is it cold in {x}?",
               "Do I need an umbrella in {x}?", "I am going to {x}. How is the weather there?", "Check the weather in {x}.",
               "{x} weather", "What is the temperature in {x}?", "Get the weather for {x}.", "Will I need a coat in {x}?"], x=city, fold=True)
    res = js({"city": city, "temperature": temp, "condition": cond})
    return q, {"city": city}, res, f"In {city} it is {temp} degrees with {cond}.", f"I need the weather in {city}."


def calculator(g):
    op, a, b = g.pick(lambda: (g.c(["add", "subtract", "multiply", "divide"]), g.r.randint(2, 999), g.r.randint(2, 999)))
    sym = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}[op]
    word = {"add": "plus", "subtract": "minus", "multiply": "times", "divide": "divided by"}[op]
    val = {"add": a + b, "subtract": a - b, "multiply": a * b, "divide": a // b}[op]
    q = g.ask(["What is {a} {w} {b}?", "Please calculate {a} {s} {b}.", "Use the calculator for {a} {s} {b}.", "{a} {s} {b}", "{a}{s}{b}",
               "How much is {a} {w} {b}?", "Compute {a} {s} {b}.", "{a} {w} {b}", "I need {a} {w} {b}.", "What is {a} {s} {b}?",
               "Can you work out {a} {w} {b}?"], a=a, b=b, s=sym, w=word)
    return q, {"a": a, "b": b, "op": op}, js({"result": val}), f"The result is {val}.", f"I should {op} the numbers."


def read_file(g):
    c, r = g.c, g.r
    base, ext, code = g.pick(lambda: (c(WORDS + ["notes", "report", "todo", "plan", "list", "readme", "config", "main"]),
                                      c(["txt", "md", "log", "csv", "json", "toml", "rs"]), r.randint(0, 99)))
    path = c(["", "", "docs/", "data/", "home/", "src/", "/tmp/", "notes/"]) + base + (str(code) if r.random() < 0.4 else "") + "." + ext
    q = g.ask(["What does the file {x} say?", "Read the file {x}.", "Please open {x} and tell me what it says.", "What is in {x}?",
               "Open {x}", "Show me {x}.", "Read {x}", "Tell me what {x} says.", "Look into {x}.", "What does {x} contain?",
               "Can you read {x} for me?", "cat {x}"], x=path)
    res = c([f"The {c(THINGS)} is in the {c(PLACES)}.", f"Meet {c(NAMES)} at the {c(PLACES)}.", f"Buy {NUM[r.randint(2, 12)]} {c(FRUITS)}.",
             f"Call {c(NAMES)} {c(['on Monday', 'on Friday', 'before dinner'])}.", f"{c(NAMES)} likes {c(FOODS)}."])
    return q, {"path": path}, res, f"The file says: {res}", f"I need to read {path}."


def get_time(g):
    city, h, m = g.pick(lambda: (g.c(CITIES), g.r.randint(0, 23), g.r.randint(0, 59)))
    q = g.ask(["What time is it in {x}?", "Tell me the time in {x}.", "Which time is it in {x} now?", "Is it late in {x}?", "Time in {x}",
               "What is the time in {x}?", "How late is it in {x}?"], x=city, fold=True)
    return q, {"city": city}, js({"time": f"{h:02}:{m:02}"}), f"In {city} it is {h:02}:{m:02}.", f"I need the time in {city}."


def set_timer(g):
    n = g.pick(lambda: ("timer", g.r.randint(1, 90)))[1]
    q = g.ask(["Set a timer for {x} minutes.", "Start a timer of {x} minutes.", "Wake me in {x} minutes.", "Timer {x} minutes",
               "Remind me in {x} minutes.", "I need a timer for {x} minutes."], x=n)
    return q, {"minutes": n}, js({"ok": True}), f"The timer is set to {n} minutes.", "I should start a timer."


def send_message(g):
    who, msg = g.pick(lambda: (g.name(), g.c(["I am late", "see you soon", "dinner is ready", f"meet me at the {g.c(PLACES)}",
                                             f"buy some {g.c(FRUITS)}", f"the code is {g.r.randint(1000, 9999)}",
                                             f"I found the {g.c(THINGS)}", "call me", f"come on {g.c(DAYS)}"])))
    q = g.ask(["Send {n} the message: {m}", "Write to {n}: {m}", "Tell {n}: {m}", "Message {n}: {m}", "Send a message to {n}: {m}",
               "Text {n}: {m}"], n=who, m=msg, fold=True)
    return q, {"to": who, "message": msg}, js({"sent": True}), f"I sent the message to {who}.", f"I should write to {who}."


def search(g):
    what = g.pick(lambda: ("q", g.c([f"{g.c(COLOURS)} {g.c(THINGS)}", f"{g.c(WORDS)} {g.c(WORDS)}", f"{g.c(FOODS)} in {g.c(CITIES)}", g.c(WORDS),
                                     f"{g.c(PLACES)} {g.c(CITIES)}", made_up(g.r)])))[1]
    found = f"{g.c(NAMES)} sells it in {g.c(CITIES)}."
    q = g.ask(["Search for {x}", "Search the web for {x}.", "Look up {x}", "Find {x}", "Google {x}", "Please search {x}.",
               "Can you look for {x}?"], x=what)
    return q, {"query": what}, found, f"I found this: {found}", f"I should search for {what}."


def add_event(g):
    what, day = g.pick(lambda: (g.c(["dinner", "meeting", "party", "lunch", "dentist", "school", "concert", "football", "shopping", "training"]),
                                g.c(DAYS)))
    q = g.ask(["Add {x} on {d} to my calendar.", "I have {x} on {d}. Add it.", "Put {x} into the calendar for {d}.", "Plan {x} for {d}.",
               "New event: {x} on {d}"], x=what, d=day)
    return q, {"title": what, "day": day}, js({"ok": True}), f"I added {what} on {day}.", "I should add an event."


def switch(g):
    dev, st = g.pick(lambda: (g.c([g.c(DEVICES), f"{g.c(PLACES)} {g.c(DEVICES)}"]), g.c(["on", "off"])))
    q = g.ask(["Turn {s} the {x}.", "Switch {s} the {x}.", "Turn the {x} {s}.", "Please turn {s} the {x}.", "{x} {s}", "Switch the {x} {s}."],
              x=dev, s=st)
    return q, {"device": dev, "state": st}, js({"ok": True}), f"The {dev} is {st}.", f"I should turn {st} the {dev}."


def get_price(g):
    item, price = g.pick(lambda: (g.thing(), g.r.randint(1, 999)))
    q = g.ask(["How much is the {x}?", "What does the {x} cost?", "What is the price of the {x}?", "Price of {x}", "How expensive is the {x}?",
               "Tell me the price of the {x}."], x=item)
    return q, {"item": item}, js({"price": price}), f"The {item} costs {price}.", f"I need the price of the {item}."


def play_music(g):
    title = g.pick(lambda: ("song", " ".join(g.c(WORDS).capitalize() for _ in range(g.r.randint(1, 3)))))[1]
    q = g.ask(["Play {x}", "Play the song {x}.", "I want to hear {x}.", "Please play {x}.", "Put on {x}.", "Start the song {x}."], x=title)
    return q, {"title": title}, js({"ok": True}), f"I play {title}.", f"I should play {title}."


TURNS = dict(get_weather=weather, calculator=calculator, read_file=read_file, get_time=get_time, set_timer=set_timer,
             send_message=send_message, search=search, add_event=add_event, switch=switch, get_price=get_price, play_music=play_music)


def turn(g, name):
    """-> (question, arguments, result, final answer, thought)"""
    return TURNS[name](g)
