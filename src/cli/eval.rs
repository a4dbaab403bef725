//! `hadal eval`: the share of questions whose greedy answer is, to the letter, the known one.
//!
//! A question is `{"skill", "prompt", "answer"}`; prompt and answer are rendered text with control
//! tokens, and the answer ends where the model must end. An answer is given up at its first wrong
//! letter. Which device, numerics and threads ran is part of the report: it is the quality gate for
//! backends, quantisation and long context.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::generate::{Finish, Generation};
use engine::sample::SamplingParams;
use engine::text::{Control, Controls, Detokeniser, Specials, Tokenizer};
use engine::{Engine, ModelOptions};
use hadal::demo;
use serde::Deserialize;
use serde_json::json;

use super::args::EvalArgs;
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};
use super::term;

#[derive(Deserialize)]
struct Question {
    skill: String,
    prompt: String,
    answer: String,
}

/// Questions asked and answered rightly.
#[derive(Clone, Copy, Default)]
struct Score {
    right: u32,
    asked: u32,
}

impl Score {
    fn share(self) -> f64 {
        f64::from(self.right) / f64::from(self.asked.max(1))
    }
}

/// What answers.
struct Examinee<'a> {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    interrupt: &'a Interrupt,
}

/// Asks every question and reports.
pub fn eval(args: &EvalArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let questions = selected(args)?;
    let source = Source::new(args.model.model.as_deref())?;
    let checkpoint = source.checkpoint()?;
    let tokenizer = source.tokenizer(checkpoint.config().vocab)?;
    let options = ModelOptions::default();
    let engine = model::open(&source, &checkpoint, &args.model, options, &interrupt)?;
    let mut examinee = Examinee { engine, tokenizer, interrupt: &interrupt };
    let started = Instant::now();
    let bar = term::count_bar("questions", questions.len() as u64);
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    for question in &questions {
        let right = examinee.answers(question).map_err(|failure| failure.at(&question.skill))?;
        let score = scores.entry(question.skill.clone()).or_default();
        score.asked += 1;
        score.right += u32::from(right);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(args, &source, &examinee.engine, &scores, started.elapsed().as_secs_f64())
}

fn report(
    args: &EvalArgs,
    source: &Source,
    engine: &Engine,
    scores: &BTreeMap<String, Score>,
    seconds: f64,
) -> Result<()> {
    let all = scores.values().fold(Score::default(), |sum, score| Score {
        right: sum.right + score.right,
        asked: sum.asked + score.asked,
    });
    let numerics = engine.options().numerics.to_string();
    let device = hadal::registry::name_of(engine.device().info());
    let mut out = io::stdout().lock();
    if args.json {
        let entry = |score: &Score| json!({"right": score.right, "asked": score.asked, "accuracy": score.share()});
        let skills: serde_json::Map<_, _> =
            scores.iter().map(|(skill, score)| (skill.clone(), entry(score))).collect();
        let report = json!({
            "model": source.to_string(), "device": device, "numerics": numerics,
            "skills": skills, "all": entry(&all), "seconds": seconds,
        });
        writeln!(out, "{report:#}")?;
    } else {
        let row = |name: &str, score: Score| {
            vec![
                name.to_owned(),
                format!("{:.3}", score.share()),
                score.right.to_string(),
                format!("of {}", score.asked),
            ]
        };
        let mut rows: Vec<_> = scores.iter().map(|(skill, score)| row(skill, *score)).collect();
        rows.push(row("all", all));
        writeln!(out, "{source} on {device}, {numerics} numerics, {seconds:.1} s")?;
        out.write_all(term::columns(&rows, &[1, 2]).as_bytes())?;
    }
    match args.at_least.filter(|&least| all.share() < least) {
        Some(least) => Err(Failure::new(format!(
            "accuracy over all skills is {:.3}, below the {least} of --at-least",
            all.share()
        ))),
        None => Ok(()),
    }
}

impl Examinee<'_> {
    /// Whether the greedy answer is the known one.
    fn answers(&mut self, question: &Question) -> Result<bool> {
        let prompt = self.tokenizer.encode(&question.prompt, Specials::Allow)?;
        let room = self.tokenizer.encode(&question.answer, Specials::Allow)?.len() * 2 + 16;
        let sequence = self.engine.open_sequence()?;
        let params = SamplingParams::greedy();
        let mut generation = Generation::new(&self.engine, sequence, &params, room as u32)?;
        let cancel = self.interrupt.flag();
        generation.feed(&mut self.engine, &prompt, &cancel, &mut |_| {})?;
        let mut detokeniser = Detokeniser::new(self.tokenizer.clone(), Controls::Show);
        let mut rest = question.answer.as_str();
        while let Some(token) = generation.next(&mut self.engine, &cancel)? {
            match rest.strip_prefix(detokeniser.push(token.id)?) {
                Some(after) => rest = after,
                None => return Ok(false),
            }
        }
        self.interrupt.check()?;
        let held = detokeniser.finish().is_empty();
        let ended = generation.finish() == Some(Finish::Stop);
        Ok(held && ended && rest == Control::EndOfSentence.text())
    }
}

/// The questions `args` ask for, at least one.
fn selected(args: &EvalArgs) -> Result<Vec<Question>> {
    let mut questions = match &args.set {
        Some(folder) => of_folder(folder)?,
        None => {
            let mut all = Vec::new();
            for (name, bytes) in demo::EVAL_SETS {
                all.extend(parse(name, bytes)?);
            }
            all
        }
    };
    if !args.skill.is_empty() {
        questions.retain(|question| args.skill.contains(&question.skill));
    }
    if let Some(limit) = args.limit {
        let mut taken: BTreeMap<String, u32> = BTreeMap::new();
        questions.retain(|question| {
            let count = taken.entry(question.skill.clone()).or_default();
            *count += 1;
            *count <= limit
        });
    }
    if questions.is_empty() {
        return Err(Failure::new("no questions are left; look at --set and --skill"));
    }
    Ok(questions)
}

fn of_folder(folder: &Path) -> Result<Vec<Question>> {
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", folder.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    let mut questions = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).map_err(|error| Failure::new(error).at(path.display()))?;
        questions.extend(parse(&path.display().to_string(), &bytes)?);
    }
    Ok(questions)
}

/// The questions of one set, a line each.
fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Question>> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let question = |(place, line): (usize, &[u8])| {
        serde_json::from_slice(line)
            .map_err(|error| Failure::new(format!("{name}, line {}: {error}", place + 1)))
    };
    filled.map(question).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_the_demo_parses_and_ends_its_answers() {
        for (name, bytes) in demo::EVAL_SETS {
            for question in parse(name, bytes).expect("a legal set") {
                assert!(question.answer.ends_with(Control::EndOfSentence.text()), "{name}");
            }
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let Err(Failure::Failed(message)) = parse("x.jsonl", b"{\"skill\": 1}\n").map(drop) else {
            panic!("it parsed");
        };
        assert!(message.starts_with("x.jsonl, line 1: "), "{message}");
    }
}
