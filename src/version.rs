//! What `hadal --version` and `hadal doctor` say about this binary.

/// Version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit the binary was built from, or "unknown".
pub const COMMIT: &str = env!("HADAL_COMMIT");
/// Cargo features that are on, separated by commas.
pub const FEATURES: &str = env!("HADAL_FEATURES");
/// Platform the binary was built for.
pub const TARGET: &str = env!("HADAL_TARGET");

/// All of it on one line.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("HADAL_COMMIT"),
    ", features: ",
    env!("HADAL_FEATURES"),
    ", ",
    env!("HADAL_TARGET"),
    ")"
);
