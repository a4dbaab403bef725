//! Bodies of fuzz targets: each takes any bytes and must neither panic nor hang. They check laws,
//! not only survival.

use serde_json::Value;

use super::chat::{
    ChatOptions, Effort, EffortTable, OldReasoning, Thinking, messages_from_json, render,
};
use super::dsml::{Begin, Event, Malformed, Reply, ReplyStream, parse, parse_recovering};
use super::{Control, Tokenizer};

/// Messages from JSON, rendered in every mode.
pub fn fuzz_chat(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(messages) = messages_from_json(&value) else { return };
    for thinking in [Thinking::Off, Thinking::On(Effort::High), Thinking::On(Effort::Max)] {
        for old_reasoning in [OldReasoning::DropUnlessTools, OldReasoning::Keep] {
            let efforts = &EffortTable::PREVIEW;
            if let Ok(prompt) = render(&messages, &ChatOptions { thinking, efforts, old_reasoning })
            {
                assert!(prompt.to_string().starts_with(Control::BeginOfSentence.text()));
            }
        }
    }
}

/// A reply, parsed whole and in pieces; the first bytes choose where it is cut.
///
/// # Panics
/// If a streaming parser differs from the whole one.
pub fn fuzz_reply(data: &[u8]) {
    let (cuts, text) = data.split_at(data.len().min(4));
    let text = String::from_utf8_lossy(text);
    for begin in [Begin::Reasoning, Begin::Content] {
        let whole = parse(&text, begin);
        let pieces = in_pieces(&text, cuts, begin, Malformed::Refuse);
        assert_eq!(whole.is_ok(), pieces.is_some(), "{text:?}");
        if let (Ok(whole), Some(pieces)) = (whole, pieces) {
            assert_eq!(whole, pieces, "{text:?}");
            // The strict grammar knows five control strings, recovery drops all of them.
            let dropped = |control: &Control| {
                whole.content.contains(control.text()) || whole.reasoning.contains(control.text())
            };
            if !Control::ALL.iter().any(dropped) {
                assert_eq!(parse_recovering(&text, begin), whole, "{text:?}");
            }
        }
        let pieces = in_pieces(&text, cuts, begin, Malformed::Recover);
        assert_eq!(Some(parse_recovering(&text, begin)), pieces, "{text:?}");
        let pieces = in_pieces(&text, cuts, begin, Malformed::Cut);
        assert_eq!(in_pieces(&text, &[0], begin, Malformed::Cut), pieces, "{text:?}");
    }
}

/// A reply, parsed whole and cut in two at every place there is.
///
/// # Panics
/// If a streaming parser differs from the whole one.
pub fn fuzz_splits(data: &[u8]) {
    /// Longer ones take as many parses as they have characters.
    const BYTES_MAX: usize = 1024;
    let text = String::from_utf8_lossy(&data[..data.len().min(BYTES_MAX)]);
    for begin in [Begin::Reasoning, Begin::Content] {
        let strict = parse(&text, begin).ok();
        let recovered = Some(parse_recovering(&text, begin));
        for at in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            let (first, second) = text.split_at(at);
            for (malformed, whole) in
                [(Malformed::Refuse, &strict), (Malformed::Recover, &recovered)]
            {
                let pieces = streamed([first, second], begin, malformed);
                assert_eq!(*whole, pieces, "{first:?} | {second:?}");
            }
        }
    }
}

/// A tokenizer.json.
pub fn fuzz_tokenizer(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_bytes(data) {
        let _ = tokenizer.encode("a <think> 1234 漢字\n\n", super::Specials::Forbid);
    }
}

/// Feeds `text` in pieces whose lengths come from `cuts`; `None` on an error.
fn in_pieces(text: &str, cuts: &[u8], begin: Begin, malformed: Malformed) -> Option<Reply> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut turn = 0;
    while !rest.is_empty() {
        let cut = cuts.get(turn % cuts.len().max(1)).map_or(1, |&cut| usize::from(cut) % 17 + 1);
        turn += 1;
        let end = (cut..).find(|&end| end >= rest.len() || rest.is_char_boundary(end))?;
        let (piece, after) = rest.split_at(end.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    streamed(pieces, begin, malformed)
}

/// What a stream makes of `pieces`; `None` on an error.
fn streamed<'a>(
    pieces: impl IntoIterator<Item = &'a str>,
    begin: Begin,
    malformed: Malformed,
) -> Option<Reply> {
    let mut stream = ReplyStream::new(begin, malformed);
    let mut events = Vec::new();
    for piece in pieces {
        stream.push(piece, &mut events).ok()?;
    }
    stream.finish(&mut events).ok()?;
    Some(gather(&events))
}

/// The reply that events add up to.
///
/// # Panics
/// If the events contradict each other.
pub fn gather(events: &[Event]) -> Reply {
    let mut reply = Reply::default();
    let mut open = None;
    for event in events {
        match event {
            Event::Reasoning(text) => reply.reasoning.push_str(text),
            Event::Content(text) => reply.content.push_str(text),
            Event::CallStart { index, name } => {
                assert_eq!((*index, open), (reply.calls.len(), None));
                open = Some(*index);
                reply
                    .calls
                    .push(super::dsml::Call { name: name.clone(), arguments: String::new() });
            }
            Event::CallArguments { index, text } => {
                assert_eq!(open, Some(*index));
                reply.calls[*index].arguments.push_str(text);
            }
            Event::CallEnd { index } => {
                assert_eq!(open.take(), Some(*index));
            }
        }
    }
    reply
}
