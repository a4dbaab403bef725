"""The description that `hadal serve` gives of itself, with the names of models that are known there, so that requests
made from it reach the model. Written to the file named; run by scripts/test-openapi.

    openapi.py URL KEY FILE
"""

import json
import sys
import urllib.request

url, key, path = sys.argv[1:]


def get(what):
    request = urllib.request.Request(url + what, headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


description = get("/openapi.json")
names = [model["id"] for model in get("/v1/models")["data"]]
schemas = description["components"]["schemas"]
for name in ("ChatRequest", "CompletionRequest", "CountRequest"):
    more = ["claude-sonnet-4-5"] if name == "CountRequest" else []
    schemas[name]["properties"]["model"] = {"type": "string", "enum": names + more}
parameter = description["paths"]["/v1/models/{id}"]["get"]["parameters"][0]
parameter["schema"] = {"type": "string", "enum": names}
with open(path, "w", encoding="utf-8") as file:
    json.dump(description, file)
