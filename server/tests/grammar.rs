//! Constraints: what an answer may be under tools, forced calls and schemas; and that schemas of strangers
//! are bounded.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::text::dsml::{Begin, parse};
use engine::text::{Control, Specials, Tokenizer};
use serde_json::{Value, json};
use server::grammar::{Choice, Format, Grammars, Shape, Tool};
use server::job::Constraint;

const D: &str = "｜DSML｜";

struct Bench {
    tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
}

impl Bench {
    fn new() -> Self {
        let tokenizer = common::tokenizer();
        Bench { grammars: Grammars::new(&tokenizer).unwrap(), tokenizer }
    }

    fn constraint(&self, tools: &[Tool], choice: &Choice, format: &Format) -> Box<dyn Constraint> {
        let shape = Shape { tools, choice, format, begin: Begin::Content };
        self.grammars.constrain(&shape).unwrap_or_else(|fault| panic!("{}", fault.message)).0
    }

    /// How much of `text` and the end after it is allowed: all of it, or up to where it is not.
    fn walk(&self, constraint: &mut dyn Constraint, text: &str) -> Result<(), String> {
        let mut ids = self.tokenizer.encode(text, Specials::Allow).unwrap();
        ids.push(self.tokenizer.control(Control::EndOfSentence).unwrap());
        let mut done = String::new();
        for id in ids {
            let mut allowed = vec![true; self.tokenizer.size() as usize];
            if constraint.mask(&mut allowed).unwrap() && !allowed[id as usize] {
                return Err(done);
            }
            constraint.accept(id).unwrap();
            done += &String::from_utf8_lossy(self.tokenizer.token_bytes(id).unwrap());
        }
        Ok(())
    }

    fn allows(&self, tools: &[Tool], choice: &Choice, text: &str) -> bool {
        let mut constraint = self.constraint(tools, choice, &Format::Text);
        self.walk(&mut *constraint, text).is_ok()
    }
}

fn tool(name: &str, parameters: Value, strict: bool) -> Tool {
    Tool {
        name: name.to_owned(),
        function: json!({"name": name}),
        parameters: (!parameters.is_null()).then_some(parameters),
        strict,
    }
}

/// A parameter: key, whether it is text, value.
type Parameter<'a> = (&'a str, bool, &'a str);

/// A block of calls: names with their parameters.
fn block(calls: &[(&str, &[Parameter<'_>])]) -> String {
    let mut text = format!("\n\n<{D}tool_calls>\n");
    for (name, parameters) in calls {
        text += &format!("<{D}invoke name=\"{name}\">\n");
        for (key, is_text, value) in *parameters {
            text += &format!(
                "<{D}parameter name=\"{key}\" string=\"{is_text}\">{value}</{D}parameter>\n"
            );
        }
        text += if parameters.is_empty() { "\n" } else { "" };
        text += &format!("</{D}invoke>\n");
    }
    text + &format!("</{D}tool_calls>")
}

fn weather() -> Tool {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 100, "pattern": "^[A-Z]"},
            "days": {"type": "integer", "minimum": -9_007_199_254_740_991_i64,
                     "exclusiveMinimum": 0, "default": 1},
            "unit": {"enum": ["c", "f"]},
            "places": {"type": "array", "items": {"type": "string"}},
            "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["city"],
        "additionalProperties": false,
    });
    tool("weather", schema, false)
}

#[test]
fn calls_are_held_to_the_markup_and_the_schema() {
    let bench = Bench::new();
    let tools = [weather(), tool("now", Value::Null, false)];
    let city = ("city", true, "Rome");
    for (calls, want) in [
        (&[("weather", &[city][..])][..], true),
        (&[("weather", &[("city", true, "</b> \" <x")])], true),
        (&[("weather", &[city, ("days", false, "3")])], true),
        (&[("weather", &[city, ("unit", true, "c"), ("any", false, "null")])], true),
        (&[("weather", &[city, ("any", true, "x")])], true),
        (&[("weather", &[city, ("places", false, "[\"a\", \"b\"]")])], true),
        (&[("weather", &[city]), ("now", &[])], true),
        (&[("now", &[])], true),
        (&[("now", &[("x", false, "{\"a\": [1, null]}"), ("y", true, "z")])], true),
        (&[("weather", &[])], false),
        (&[("weather", &[("days", false, "3")])], false),
        (&[("weather", &[city, ("days", false, "0")])], false),
        (&[("weather", &[city, ("days", false, "three")])], false),
        (&[("weather", &[city, ("days", true, "3")])], false),
        (&[("weather", &[city, ("unit", true, "k")])], false),
        (&[("weather", &[city, city])], false),
        (&[("weather", &[city, ("other", true, "x")])], false),
        (&[("wether", &[city])], false),
        (&[("now", &[("x", false, "{")])], false),
    ] {
        let text = block(calls);
        assert_eq!(bench.allows(&tools, &Choice::Required, &text), want, "{text}");
        let after = format!("Content first.{text}");
        assert_eq!(bench.allows(&tools, &Choice::Auto, &after), want, "{after}");
        if want {
            let whole = format!("{text}<｜end▁of▁sentence｜>");
            let reply = parse(&whole, Begin::Content).expect("what is allowed is well-formed");
            assert_eq!(reply.calls.len(), calls.len());
        }
    }
}

#[test]
fn choices_are_obeyed() {
    let bench = Bench::new();
    let tools = [tool("a", json!({}), false), tool("b", json!({}), false)];
    let (a, b) = (block(&[("a", &[])]), block(&[("b", &[])]));
    let both = block(&[("a", &[]), ("b", &[])]);
    let named = Choice::Named("a".to_owned());
    for (choice, text, want) in [
        (&Choice::Auto, "Just text.", true),
        (&Choice::Auto, &a, true),
        (&Choice::Auto, &both, true),
        (&Choice::Required, "Just text.", false),
        (&Choice::Required, &both, true),
        (&Choice::Required, &b, true),
        (&named, &a, true),
        (&named, &b, false),
        (&named, &both, false),
        (&Choice::Never, "Just text < 5.", true),
        (&Choice::Never, &a, false),
    ] {
        assert_eq!(bench.allows(&tools, choice, text), want, "{choice:?} {text}");
    }
    assert!(!bench.allows(&[], &Choice::Never, &a), "nothing was offered");
}

#[test]
fn no_call_begins_in_thought() {
    let bench = Bench::new();
    let tools = [tool("a", json!({}), false)];
    for choice in [Choice::Auto, Choice::Never] {
        let shape = Shape {
            tools: &tools,
            choice: &choice,
            format: &Format::Text,
            begin: Begin::Reasoning,
        };
        let mut constraint = bench.grammars.constrain(&shape).unwrap().0;
        let text = format!("Hm.{}", block(&[("a", &[])]));
        assert!(bench.walk(&mut *constraint, &text).unwrap_err().ends_with('<'));
        let mut constraint = bench.grammars.constrain(&shape).unwrap().0;
        let text = format!("a < b</think>Yes.{}", block(&[("a", &[])]));
        assert_eq!(bench.walk(&mut *constraint, &text).is_ok(), choice == Choice::Auto);
    }
}

#[test]
fn strict_schemas_hold_for_text_too() {
    let bench = Bench::new();
    let schema = json!({
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{2}/[0-9]+$"},
            "short": {"type": "string", "minLength": 2, "maxLength": 3},
            "either": {"type": ["string", "integer"]},
        },
        "required": ["code", "short", "either"], "additionalProperties": false,
    });
    let tools = [tool("t", schema, true)];
    for (code, short, either, want) in [
        ("AB/12", "abc", "5", true),
        ("AB/12", "ab", "\"5\"", true),
        ("ab/12", "abc", "5", false),
        ("AB/12x", "abc", "5", false),
        ("AB/12", "abcd", "5", false),
        ("AB/12", "a", "5", false),
        ("AB/12", "abc", "5.5", false),
    ] {
        let parameters = [("code", true, code), ("short", true, short), ("either", false, either)];
        let text = block(&[("t", &parameters)]);
        assert_eq!(bench.allows(&tools, &Choice::Required, &text), want, "{text}");
    }
}

#[test]
fn documents_are_json_of_their_schema() {
    let bench = Bench::new();
    let object = Format::Json(json!({"type": "object"}));
    let point = Format::Json(json!({
        "type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"],
        "additionalProperties": false,
    }));
    let tools = [tool("a", json!({}), false)];
    for (format, tools, text, want) in [
        (&object, &[][..], "{}", true),
        (&object, &[], "{\"a\": [1, {\"b\": null}]}", true),
        (&object, &[], "{\n  \"a\": 1\n}", true),
        (&object, &[], "[1]", false),
        (&object, &[], "Sure: {}", false),
        (&object, &[], "{\"a\": 1", false),
        (&point, &[], "{\"x\": 5}", true),
        (&point, &[], "{\"x\": \"5\"}", false),
        (&point, &[], "{\"y\": 5}", false),
        (&point, &tools, "{\"x\": 5}", true),
        (&point, &tools, &block(&[("a", &[])]), true),
        (&point, &tools, "text", false),
    ] {
        let choice = if tools.is_empty() { Choice::Never } else { Choice::Auto };
        let mut constraint = bench.constraint(tools, &choice, format);
        assert_eq!(bench.walk(&mut *constraint, text).is_ok(), want, "{text}");
    }
}

/// Schemas of somebody who means harm.
fn hostile() -> Vec<(&'static str, Value)> {
    let mut nested = json!({"type": "string"});
    for _ in 0..60 {
        nested = json!({"type": "object", "properties": {"a": nested}, "required": ["a"]});
    }
    let properties = |count: usize| -> Value {
        (0..count)
            .map(|at| (format!("p{at}"), json!({"type": "string"})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    vec![
        (
            "a bomb of counts",
            json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}),
        ),
        ("an exponential automaton", json!({"type": "string", "pattern": "(a|b)*a(a|b){24}$"})),
        (
            "alternations",
            json!({"type": "string", "pattern": format!("^({})$", "x?|".repeat(20_000))}),
        ),
        ("a broken pattern", json!({"type": "string", "pattern": "(("})),
        ("a reference to nowhere", json!({"$ref": "#/$defs/nowhere"})),
        ("a reference to itself", json!({"$ref": "#/properties/v"})),
        ("deep nesting", nested),
        (
            "huge counts",
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}),
        ),
        ("many properties", json!({"type": "object", "properties": properties(20_000)})),
        ("an enum without end", json!({"enum": (0..50_000).collect::<Vec<_>>()})),
        (
            "alternatives times members",
            json!({"anyOf": vec![json!({"type": "object"}); 4000], "properties": properties(4000)}),
        ),
        (
            "alternatives of alternatives",
            json!({"allOf": vec![json!({"anyOf": vec![json!({"type": "object"}); 30]}); 30]}),
        ),
        (
            "alternatives that exclude each other",
            json!({"oneOf": (0..8000)
            .map(|at| json!({"const": at})).collect::<Vec<_>>()}),
        ),
        ("no schema", json!(5)),
        ("nothing fits", json!(false)),
    ]
}

#[test]
fn hostile_schemas_are_refused_or_loosened_in_bounded_time() {
    let bench = Bench::new();
    for (name, schema) in hostile() {
        for strict in [false, true] {
            let root = json!({"type": "object", "properties": {"v": schema}});
            let tools = [tool("t", root, strict)];
            let shape = Shape {
                tools: &tools,
                choice: &Choice::Required,
                format: &Format::Text,
                begin: Begin::Content,
            };
            let begun = Instant::now();
            let outcome = bench.grammars.constrain(&shape);
            if let Ok((mut constraint, _)) = outcome {
                let text = block(&[("t", &[("v", true, "aaaa")])]);
                let mut allowed = vec![true; bench.tokenizer.size() as usize];
                for id in bench.tokenizer.encode(&text, Specials::Allow).unwrap() {
                    let masked = constraint.mask(&mut allowed);
                    if !matches!(masked, Ok(true)) || !allowed[id as usize] {
                        break;
                    }
                    if constraint.accept(id).is_err() {
                        break;
                    }
                    allowed.fill(true);
                }
            } else {
                assert!(strict, "{name}: only strict schemas may be refused");
            }
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(5), "{name}, strict {strict}: {took:?}");
        }
    }
}

#[test]
fn a_grammar_that_takes_too_long_is_refused_as_the_clients() {
    let bench = Bench::new();
    let format = Format::Json(json!({"type": "object"}));
    for (tools, format, param) in [
        (&[][..], &format, "response_format"),
        (&[weather()], &Format::Text, "tools"),
        (
            &[tool("t", json!({"properties": {"n": {"type": "integer"}}}), true)],
            &Format::Text,
            "tools",
        ),
    ] {
        let choice = if tools.is_empty() { Choice::Never } else { Choice::Required };
        let shape = Shape { tools, choice: &choice, format, begin: Begin::Content };
        // A new one each: late ones keep their places for a while.
        let grammars = Grammars::new(&bench.tokenizer).unwrap().hurried(Duration::ZERO);
        let fault = grammars.constrain(&shape).expect_err("there is no time");
        assert_eq!((fault.status(), fault.param.as_deref()), (400, Some(param)));
        assert!(fault.message.contains("it takes more than"), "{}", fault.message);
    }
}

#[test]
fn thought_before_a_document_does_not_end_the_answer() {
    let bench = Bench::new();
    let format = Format::Json(json!({"type": "object"}));
    let shape =
        Shape { tools: &[], choice: &Choice::Never, format: &format, begin: Begin::Reasoning };
    for (text, want) in [("Hm.", false), ("Hm.</think>", false), ("Hm.</think>{}", true)] {
        let mut constraint = bench.grammars.constrain(&shape).unwrap().0;
        assert_eq!(bench.walk(&mut *constraint, text).is_ok(), want, "{text}");
    }
}

/// A call that comes back is rendered to the tokens that were drawn, so that the prefix cache hits.
#[test]
fn a_call_that_comes_back_renders_to_the_same_tokens() {
    use engine::text::chat::{ChatOptions, EffortTable, Message, OldReasoning, Thinking, ToolCall};
    let bench = Bench::new();
    let tools = [weather()];
    let parameters =
        [("city", true, "Rome \"x\""), ("days", false, "3"), ("places", false, "[\"a\", \"b\"]")];
    let text = block(&[("weather", &parameters)]);
    assert!(bench.allows(&tools, &Choice::Required, &text));
    let reply = parse(&format!("{text}<｜end▁of▁sentence｜>"), Begin::Content).unwrap();
    let calls = reply.calls.into_iter().map(|call| ToolCall {
        id: "c".into(),
        name: call.name,
        arguments: call.arguments,
        written: None,
    });
    let messages = [
        Message::user("q"),
        Message::Assistant {
            content: String::new(),
            reasoning: String::new(),
            tool_calls: calls.collect(),
            task: None,
            open: false,
        },
    ];
    let options = ChatOptions {
        thinking: Thinking::Off,
        efforts: &EffortTable::PREVIEW,
        old_reasoning: OldReasoning::Keep,
    };
    let prompt = engine::text::chat::render(&messages, &options).unwrap();
    let rendered = bench.tokenizer.encode_prompt(&prompt).unwrap();
    let drawn = bench.tokenizer.encode(&text, Specials::Allow).unwrap();
    assert!(rendered.windows(drawn.len()).any(|window| window == drawn), "{prompt}");
}
