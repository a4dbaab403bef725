//! How many connections there may be: each is an open file, and systems grant a process few unless it
//! asks for more.

use server::limits::{CONNECTIONS_MAX, FILES_BESIDE};

/// Connections there is room for, after asking for as many files as the system grants.
#[cfg(unix)]
pub fn connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let wanted = (CONNECTIONS_MAX + FILES_BESIDE) as u64;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return CONNECTIONS_MAX };
    let mut granted = soft;
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok() {
        granted = wanted.min(hard);
    }
    let connections = usable(granted);
    if connections < CONNECTIONS_MAX {
        tracing::warn!(
            open_files = granted,
            connections,
            "the limit of open files bounds connections; `ulimit -n {wanted}` lifts it"
        );
    }
    connections
}

/// Where there is no such limit.
#[cfg(not(unix))]
pub fn connections() -> usize {
    CONNECTIONS_MAX
}

/// Connections among so many open files.
#[cfg(unix)]
fn usable(files: u64) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    // Few files are shared out evenly.
    files.saturating_sub(FILES_BESIDE.min(files / 2)).clamp(1, CONNECTIONS_MAX)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        for (files, want) in [
            (0, 1),
            (64, 32),
            (1024, 1024 - FILES_BESIDE),
            ((CONNECTIONS_MAX + FILES_BESIDE) as u64, CONNECTIONS_MAX),
            (u64::MAX, CONNECTIONS_MAX),
        ] {
            assert_eq!(usable(files), want, "{files} files");
        }
    }
}
