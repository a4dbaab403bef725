//! `hadal logits`: logits of given token ids and greedy continuations, as a safetensors file: what one
//! compares with another implementation.
//!
//! Rows are written as they are computed; the file gets its name only when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use engine::limits::ROWS_MAX;
use engine::{Engine, ModelOptions, Run, Want};

use super::args::LogitsArgs;
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};

/// Computes and writes.
pub fn logits(args: &LogitsArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let folder = match (&args.folder, &args.model.model) {
        (Some(_), Some(_)) => return Err(Failure::usage("give the model once: DIR or --model")),
        (folder, model) => folder.as_deref().or(model.as_deref()),
    };
    let source = Source::new(folder)?;
    let tokens = u32::try_from(args.ids.len()).map_err(|_| Failure::new("too many --ids"))?;
    let rows_max = args.chunk.unwrap_or(tokens).min(ROWS_MAX);
    let length = u64::from(tokens) + u64::from(args.greedy);
    let context = u32::try_from(length).map_err(|_| Failure::new("--greedy is too large"))?;
    let options = ModelOptions { rows_max, context, ..ModelOptions::default() };
    let checkpoint = source.checkpoint()?;
    let mut engine = model::open(&source, &checkpoint, &args.model, options, &interrupt)?;
    let part = Part::new(&args.out);
    let written = write(&mut engine, args, &part.0, &interrupt);
    written.and_then(|()| Ok(fs::rename(&part.0, &args.out)?)).map_err(|failure| match failure {
        Failure::Failed(_) => failure.at(args.out.display()),
        other => other,
    })
}

/// A file under a name of its own; gone when dropped, unless it was renamed.
struct Part(PathBuf);

impl Part {
    fn new(out: &Path) -> Self {
        let mut name: OsString = out.as_os_str().to_owned();
        name.push(".part");
        Self(name.into())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

fn write(engine: &mut Engine, args: &LogitsArgs, path: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let vocab = engine.config().vocab as usize;
    out.write_all(&header(args.ids.len(), vocab, args.greedy as usize))?;
    let mut sequence = engine.open_sequence()?;
    let mut next = 0;
    for chunk in args.ids.chunks(engine.capacity().rows as usize) {
        interrupt.check()?;
        let run = Run { sequence: &mut sequence, tokens: chunk, want: Want::All };
        let logits = engine.step(&mut [run])?;
        for value in logits.values() {
            out.write_all(&value.to_le_bytes())?;
        }
        next = likeliest(logits.row(logits.rows() - 1));
    }
    for place in 0..args.greedy {
        interrupt.check()?;
        out.write_all(&i64::from(next).to_le_bytes())?;
        if place + 1 < args.greedy {
            let run = Run { sequence: &mut sequence, tokens: &[next], want: Want::Last };
            next = likeliest(engine.step(&mut [run])?.row(0));
        }
    }
    Ok(out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?)
}

/// The largest logit's id, the lower one of equals.
fn likeliest(row: &[f32]) -> u32 {
    let mut best = 0;
    for (id, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = id;
        }
    }
    best as u32
}

/// Length and text of the header, padded so that the numbers are aligned.
fn header(tokens: usize, vocab: usize, greedy: usize) -> Vec<u8> {
    let logits = tokens * vocab * 4;
    let end = logits + greedy * 8;
    let mut text = format!(
        "{{\"logits\":{{\"dtype\":\"F32\",\"shape\":[{tokens},{vocab}],\
         \"data_offsets\":[0,{logits}]}},\
         \"greedy\":{{\"dtype\":\"I64\",\"shape\":[{greedy}],\"data_offsets\":[{logits},{end}]}}}}"
    );
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_id() {
        for (row, want) in [(&[1.0, 3.0, 3.0][..], 1), (&[0.0], 0), (&[-2.0, -1.0], 1)] {
            assert_eq!(likeliest(row), want);
        }
    }

    #[test]
    fn the_header_is_one_the_engine_reads() {
        let mut bytes = header(3, 5, 2);
        bytes.extend(vec![0; 3 * 5 * 4 + 2 * 8]);
        let read = engine::load::parse_header(&bytes).expect("a legal file");
        let shapes: Vec<_> = read.tensors.iter().map(|tensor| tensor.shape.clone()).collect();
        assert_eq!(shapes.len(), 2);
        assert!(shapes.contains(&vec![3, 5]) && shapes.contains(&vec![2]), "{shapes:?}");
    }
}
