//! Output: colours only on a terminal (and never with `NO_COLOR`), columns, sizes, a progress bar.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Escape sequences, or nothing where they do not belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Starts faint text.
    pub dim: &'static str,
    /// Starts bold text.
    pub bold: &'static str,
    /// Ends either.
    pub reset: &'static str,
}

impl Style {
    /// For standard output as it is.
    pub fn stdout() -> Self {
        Self::when(io::stdout().is_terminal() && wanted())
    }

    /// For standard error as it is.
    pub fn stderr() -> Self {
        Self::when(io::stderr().is_terminal() && wanted())
    }

    /// With escape sequences or without.
    pub fn when(colours: bool) -> Self {
        match colours {
            true => Self { dim: "\x1b[2m", bold: "\x1b[1m", reset: "\x1b[0m" },
            false => Self::default(),
        }
    }
}

/// Whether the user lets us use colours where there is a terminal.
fn wanted() -> bool {
    let quiet = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    !quiet && !dumb
}

/// Lines with their columns padded to the widest cell; `right` columns are flush right.
pub fn columns(rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let space = width(column).unwrap_or(0) - cell.chars().count();
            let (before, after) = if right.contains(&column) { (space, 0) } else { (0, space) };
            line.extend(std::iter::repeat_n(' ', before));
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', after + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Bytes in the unit that leaves the fewest digits: decimal, as memory bandwidth is quoted.
pub fn bytes(count: u64) -> String {
    let scaled = |unit: f64, name: &str| format!("{:.2} {name}", count as f64 / unit);
    match count {
        0..10_000 => format!("{} B", grouped(count)),
        10_000..10_000_000 => scaled(1e3, "kB"),
        10_000_000..1_000_000_000 => scaled(1e6, "MB"),
        1_000_000_000..1_000_000_000_000 => scaled(1e9, "GB"),
        _ => scaled(1e12, "TB"),
    }
}

/// A count with a comma every three digits.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A bar on standard error for `total` bytes; nothing is drawn where that is no terminal.
#[cfg(feature = "pull")]
pub fn bar(what: &str, total: u64) -> ProgressBar {
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what.to_owned());
    bar
}

/// A bar on standard error that counts to `total`, which may be set later.
pub fn count_bar(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
    bar.set_message(what.to_owned());
    bar
}

/// Seconds with a sensible number of digits.
pub fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0..0.1 => format!("{:.1} ms", seconds * 1e3),
        0.1..10.0 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "1".into()], vec!["bcé".into(), "23".into()]];
        assert_eq!(columns(&rows, &[1]), "a     1\nbcé  23\n");
    }

    #[test]
    fn numbers_read_easily() {
        for (count, want) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (12, "12")]
        {
            assert_eq!(grouped(count), want);
        }
        for (count, want) in [
            (3514, "3,514 B"),
            (17_700_000, "17.70 MB"),
            (158_100_000_000, "158.10 GB"),
            (1_600_000_000_000, "1.60 TB"),
        ] {
            assert_eq!(bytes(count), want);
        }
    }
}
