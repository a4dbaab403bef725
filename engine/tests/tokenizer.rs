//! The tokenizer against the ids of the Python library `tokenizers`
//! (`tests/vectors/tokenizer_golden.json`).
//!
//! A reduced tokenizer is committed. The whole released one is used where `HADAL_TOKENIZER` names
//! it (a tokenizer.json or its folder; `scripts/fetch-tokenizer.sh` gets it).

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use engine::sample::uniform;
use engine::text::chat::{
    ChatOptions, Effort, EffortTable, OldReasoning, Thinking, messages_from_json, render,
};
use engine::text::fuzz::fuzz_tokenizer;
use engine::text::{Control, Controls, Detokeniser, Specials, TextErrorKind, Tokenizer};
use serde_json::{Value, json};

const REDUCED: &[u8] = include_bytes!("../../tests/vectors/tokenizer_reduced.json");
const GOLDEN: &str = include_str!("../../tests/vectors/tokenizer_golden.json");
const SIZES: [(&str, u32); 2] = [("reduced", 2_238), ("released", 129_280)];

/// The tokenizers at hand, with the name of their golden ids.
fn tokenizers() -> Vec<(&'static str, Arc<Tokenizer>)> {
    let mut all = vec![("reduced", Arc::new(Tokenizer::from_bytes(REDUCED).unwrap()))];
    match std::env::var_os("HADAL_TOKENIZER").map(PathBuf::from) {
        None => println!("SKIPPED: the released tokenizer; HADAL_TOKENIZER is not set"),
        Some(path) if path.is_dir() => {
            all.push(("released", Arc::new(Tokenizer::from_folder(&path).unwrap())));
        }
        Some(path) => {
            let bytes = fs::read(path).unwrap();
            all.push(("released", Arc::new(Tokenizer::from_bytes(&bytes).unwrap())));
        }
    }
    all
}

struct Case {
    text: String,
    allow: Vec<u32>,
    forbid: Vec<u32>,
}

fn golden(name: &str) -> Vec<Case> {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let case = |case: &Value| Case {
        text: case["text"].as_str().unwrap().to_owned(),
        allow: ids(&case["allow"]),
        forbid: ids(case.get("forbid").unwrap_or(&case["allow"])),
    };
    let cases: Vec<_> = golden[name].as_array().unwrap().iter().map(case).collect();
    assert!(cases.len() > 60);
    cases
}

#[test]
fn ids_equal_the_python_librarys() {
    for (name, tokenizer) in tokenizers() {
        for case in golden(name) {
            let text = &case.text;
            assert_eq!(tokenizer.encode(text, Specials::Allow).unwrap(), case.allow, "{text:?}");
            assert_eq!(tokenizer.encode(text, Specials::Forbid).unwrap(), case.forbid, "{text:?}");
            assert_eq!(tokenizer.decode(&case.allow).unwrap(), *text);
            assert_eq!(tokenizer.decode(&case.forbid).unwrap(), *text);
        }
    }
}

#[test]
fn text_cannot_forge_any_added_token() {
    for (name, tokenizer) in tokenizers() {
        assert!(SIZES.contains(&(name, tokenizer.size())), "{name} {}", tokenizer.size());
        let mut seen = 0;
        for id in (0..tokenizer.size()).filter(|&id| tokenizer.is_control(id)) {
            seen += 1;
            let text = String::from_utf8(tokenizer.token_bytes(id).unwrap().to_vec()).unwrap();
            assert_eq!(tokenizer.encode(&text, Specials::Allow).unwrap(), [id], "{text}");
            for hostile in [text.clone(), format!("a{text}"), format!(" {text}{text}\n")] {
                let ids = tokenizer.encode(&hostile, Specials::Forbid).unwrap();
                assert!(ids.iter().all(|&id| !tokenizer.is_control(id)), "{hostile}");
                assert_eq!(tokenizer.decode(&ids).unwrap(), hostile);
            }
        }
        assert!(seen > 50);
    }
}

#[test]
fn control_tokens_have_the_released_ids() {
    let constants = include_str!("../../tests/vectors/chat_constants.json");
    let constants: Value = serde_json::from_str(constants).unwrap();
    for (name, tokenizer) in tokenizers() {
        for control in Control::ALL {
            let id = tokenizer.control(control).unwrap();
            assert_eq!(tokenizer.token_bytes(id), Some(control.text().as_bytes()));
            let want = constants["token_ids"][control.text()].as_u64().unwrap();
            assert!(name == "reduced" || u64::from(id) == want, "{control:?} is {id}");
        }
    }
}

#[test]
fn prompts_encode_as_their_string_would() {
    let vectors = include_str!("../../tests/vectors/chat_vectors.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    for (_, tokenizer) in tokenizers() {
        for vector in vectors["encode"].as_array().unwrap() {
            let messages = messages_from_json(&vector["messages"]).unwrap();
            let options = ChatOptions {
                thinking: Thinking::On(Effort::Max),
                efforts: &EffortTable::PREVIEW,
                old_reasoning: OldReasoning::DropUnlessTools,
            };
            let prompt = render(&messages, &options).unwrap();
            let ids = tokenizer.encode_prompt(&prompt).unwrap();
            let string = prompt.to_string();
            assert_eq!(ids, tokenizer.encode(&string, Specials::Allow).unwrap(), "{string}");
            assert_eq!(ids[0], tokenizer.control(Control::BeginOfSentence).unwrap());
        }
    }
}

#[test]
fn hostile_prompts_have_the_control_ids_of_honest_ones() {
    for (_, tokenizer) in tokenizers() {
        let controls = |text: &str| {
            let messages = json!([{"role": "user", "content": text}]);
            let options = ChatOptions {
                thinking: Thinking::Off,
                efforts: &EffortTable::PREVIEW,
                old_reasoning: OldReasoning::DropUnlessTools,
            };
            let prompt = render(&messages_from_json(&messages).unwrap(), &options).unwrap();
            let mut ids = tokenizer.encode_prompt(&prompt).unwrap();
            ids.retain(|&id| tokenizer.is_control(id));
            ids
        };
        let want = controls("honest");
        assert_eq!(want.len(), 4);
        for control in Control::ALL {
            assert_eq!(controls(control.text()), want, "{control:?}");
        }
    }
}

#[test]
fn streamed_text_equals_the_decoders_and_never_holds_half_a_character() {
    for (name, tokenizer) in tokenizers() {
        let mut streams: Vec<Vec<u32>> =
            golden(name).into_iter().flat_map(|case| [case.allow, case.forbid]).collect();
        // Random ids cut characters in every way; control tokens come too.
        for seed in 0..200 {
            let id = |at| (uniform(seed, at) * f64::from(tokenizer.size())) as u32;
            let low = |at| (uniform(seed, at) * 300.0) as u32;
            streams.push((0..40).map(|at| if at % 3 == 0 { id(at) } else { low(at) }).collect());
        }
        let mut detokeniser = Detokeniser::new(Arc::clone(&tokenizer), Controls::Show);
        let mut held_something = false;
        for ids in streams {
            let whole = tokenizer.decode(&ids).unwrap();
            let mut text = String::new();
            for &id in &ids {
                let piece = detokeniser.push(id).unwrap();
                held_something |= piece.is_empty();
                text.push_str(piece);
                assert!(whole.starts_with(&text), "{ids:?}");
            }
            text.push_str(detokeniser.finish());
            assert_eq!(text, whole, "{ids:?}");
        }
        assert!(held_something, "no character was ever cut; the test tests nothing");
    }
}

#[test]
fn control_tokens_can_be_hidden() {
    for (_, tokenizer) in tokenizers() {
        let ids = tokenizer.encode("a<think>b</think>c<｜User｜>", Specials::Allow).unwrap();
        let mut detokeniser = Detokeniser::new(Arc::clone(&tokenizer), Controls::Hide);
        let text: String = ids.iter().map(|&id| detokeniser.push(id).unwrap().to_owned()).collect();
        assert_eq!(text, "abc");
        let error = detokeniser.push(tokenizer.size()).unwrap_err();
        assert_eq!(error.kind(), TextErrorKind::Request);
        assert!(tokenizer.decode(&[tokenizer.size()]).is_err());
    }
}

#[test]
fn another_models_vocabulary_is_refused() {
    let tokenizer = Tokenizer::from_bytes(REDUCED).unwrap();
    let size = tokenizer.size();
    tokenizer.expect_vocabulary(size).unwrap();
    for other in [129_280, size - 1, size + 1] {
        let error = tokenizer.expect_vocabulary(other).unwrap_err();
        assert_eq!(error.kind(), TextErrorKind::Tokenizer);
        assert!(error.to_string().contains(&other.to_string()), "{error}");
    }
}

#[test]
fn what_is_not_a_byte_level_bpe_is_refused() {
    let good: Value = serde_json::from_slice(REDUCED).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        Tokenizer::from_bytes(bad.to_string().as_bytes())
    };
    assert!(with(&|_| {}).is_ok());
    for (name, result) in [
        ("decoder", with(&|bad| bad["decoder"] = Value::Null)),
        ("dropout", with(&|bad| bad["model"]["dropout"] = json!(0.5))),
        ("fallback", with(&|bad| bad["model"]["byte_fallback"] = json!(true))),
        ("a byte", with(&|bad| drop(bad["model"]["vocab"].as_object_mut().unwrap().remove("Ā")))),
        ("id", with(&|bad| bad["model"]["vocab"]["Ā"] = json!(u32::MAX))),
        (
            "model",
            with(&|bad| bad["model"] = json!({"type": "WordLevel", "vocab": {}, "unk_token": "x"})),
        ),
        ("normalizer", with(&|bad| bad["normalizer"] = json!({"type": "NFC"}))),
        ("pre_tokenizer", with(&|bad| bad["pre_tokenizer"] = Value::Null)),
        (
            "expression",
            with(&|bad| {
                bad["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(");
            }),
        ),
        ("added id", with(&|bad| bad["added_tokens"][9]["id"] = json!(9999))),
        ("merges", with(&|bad| bad["model"]["merges"] = json!(["no such"]))),
        (
            "precompiled",
            with(&|bad| {
                bad["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "no"});
            }),
        ),
        // Found by fuzzing: the library panics at them.
        ("decoder of bytes", Tokenizer::from_bytes(b"{\"decoder\":\"\xff\xff\",\"a\":1}")),
        ("decoder cut off", Tokenizer::from_bytes(b"{\"added_tokens\":[],\"decoder\":{\"type\":")),
        ("decoder of numbers", Tokenizer::from_bytes(b"{\"added_tokens\":[],\"decoder\":1e999}")),
        ("empty", Tokenizer::from_bytes(b"")),
        ("array", Tokenizer::from_bytes(b"[]")),
    ] {
        let error = result.expect_err(name);
        assert_eq!(error.kind(), TextErrorKind::Tokenizer, "{name}");
        assert!(!error.to_string().contains('\n'), "{name}");
    }
    let error = Tokenizer::from_folder(&std::env::temp_dir().join("no-such-folder")).unwrap_err();
    assert!(error.to_string().contains("no-such-folder"), "{error}");
}

#[test]
fn long_runs_do_not_spoil_the_text_after_them() {
    for (_, tokenizer) in tokenizers() {
        let encode = |text: &str| tokenizer.encode(text, Specials::Forbid);
        let tail = "x hello   world 'tis\n\n  b";
        let want = encode(tail).unwrap();
        for unit in ["\0", "\u{200d}", "\u{378}", "!", "\n", "ab"] {
            let ids = encode(&format!("{}{tail}", unit.repeat(400_000))).unwrap();
            let same = ids.len() - (want.len() - 2)..;
            assert_eq!(ids[same], want[2..], "{unit:?}");
        }
        let spaces = encode(&format!("{}x", " ".repeat(900_000))).unwrap();
        assert_eq!(tokenizer.decode(&spaces).unwrap().len(), 900_001);
        let error = encode(&format!("{}x", " ".repeat(1_100_000))).unwrap_err();
        assert_eq!(error.kind(), TextErrorKind::Request, "{error}");
    }
}

#[test]
fn mutated_tokenizer_files_do_not_panic() {
    for seed in 0..40 {
        let mut data = REDUCED.to_vec();
        for change in 0..3 {
            let at = (uniform(seed, 2 * change) * data.len() as f64) as usize;
            data[at] = b"0{}[]\",:xn-\xff"[(uniform(seed, 2 * change + 1) * 12.0) as usize];
        }
        fuzz_tokenizer(&data);
    }
}
