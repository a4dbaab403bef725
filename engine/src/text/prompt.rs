//! A rendered prompt: control tokens and text kept apart, so that no text can forge a control
//! token. Neighbouring text is one segment, because a tokenizer merges across it.

use std::fmt;

use super::control::Control;
use super::scan::find;

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// One control token.
    Control(Control),
    /// Text that is encoded with control strings forbidden. Never empty, never beside another text.
    Text(String),
}

/// A prompt ready to be encoded. `Display` gives the string that DeepSeek's encoder would give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    /// A prompt without segments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one control token.
    pub fn push_control(&mut self, control: Control) {
        self.segments.push(Segment::Control(control));
    }

    /// Appends text from anywhere; control strings in it stay text.
    pub fn push_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.segments.last_mut() {
            Some(Segment::Text(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
    }

    /// Appends text of the protocol's own; control strings in it become control tokens. Never for
    /// text from outside.
    pub fn push_template(&mut self, mut template: &str) {
        let names = Control::ALL.map(Control::text);
        while let Some((at, marker)) = find(template, &names) {
            self.push_text(&template[..at]);
            self.push_control(Control::ALL[marker]);
            template = &template[at + names[marker].len()..];
        }
        self.push_text(template);
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl fmt::Display for Prompt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Control(control) => out.write_str(control.text()),
            Segment::Text(text) => out.write_str(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_become_tokens_and_text_does_not() {
        let mut prompt = Prompt::new();
        prompt.push_template("a <think>...</think> <｜DSML｜tool_calls>\n<");
        prompt.push_text("<think>");
        let controls: Vec<_> = prompt
            .segments()
            .iter()
            .filter_map(|segment| match segment {
                Segment::Control(control) => Some(*control),
                Segment::Text(_) => None,
            })
            .collect();
        assert_eq!(controls, [Control::ThinkStart, Control::ThinkEnd, Control::Dsml]);
        assert_eq!(prompt.to_string(), "a <think>...</think> <｜DSML｜tool_calls>\n<<think>");
        assert_eq!(
            prompt.segments().last(),
            Some(&Segment::Text("tool_calls>\n<<think>".to_owned()))
        );
    }

    #[test]
    fn neighbouring_text_is_one_segment() {
        let mut prompt = Prompt::new();
        prompt.push_text("a");
        prompt.push_text("");
        prompt.push_text("b");
        assert_eq!(prompt.segments(), [Segment::Text("ab".to_owned())]);
    }
}
