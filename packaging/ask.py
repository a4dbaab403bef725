"""Asks one question through the official SDK (`pip install openai`): the least that a program needs."""

import sys

import openai

answer = openai.OpenAI().chat.completions.create(
    model="deepseek-v4-flash", messages=[{"role": "user", "content": sys.argv[1]}]
)
print(answer.choices[0].message.content)
