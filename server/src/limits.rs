//! Every bound of the server's async half, in one place. What lies beyond one is refused with a clear
//! status; nothing a client sends grows without one.

use std::time::Duration;

/// Longest request body, in bytes.
pub const BODY_BYTES_MAX: usize = 32 << 20;
/// Bodies in memory at once, in bytes: what does not fit waits until something was answered.
pub const BODIES_BYTES_MAX: usize = 128 << 20;
/// Longest header block, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
pub const HEADERS_MAX: usize = 128;
/// Longest time from the first byte of a header block to its end; a slower client is let go.
pub const HEADER_TIME: Duration = Duration::from_secs(20);
/// A client that is silent for so long between requests is let go.
pub const IDLE_TIME: Duration = Duration::from_secs(75);
/// Longest pause between two pieces of a body.
pub const BODY_PAUSE: Duration = Duration::from_secs(30);
/// Longest time a whole body may take.
pub const BODY_TIME: Duration = Duration::from_secs(120);
/// Longest time a body may wait for room; then the server is busy.
pub const ROOM_TIME: Duration = Duration::from_secs(10);
/// Values and keys of a body, at most: a parsed value takes up to a hundred times its text. (The most
/// messages a conversation may have, of two fields each.)
pub const BODY_VALUES_MAX: usize = 1 << 19;
/// Longest time a reader may refuse to take what was written to it; it is then let go.
pub const STALL_TIME: Duration = Duration::from_secs(60);
/// Longest silence on a stream: a keep-alive is sent then.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Most connections at once, where the system grants as many files. One more is taken, and the one that
/// has been idle longest gives way.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Connections that wait to be accepted; the system may hold fewer.
pub const BACKLOG: u32 = 4096;
/// Open files that are no connections: the cache's, the model's, the log's.
pub const FILES_BESIDE: usize = 256;
/// Bytes gathered for one write of a stream before the reader must take them.
pub const FRAME_BYTES: usize = 16 << 10;

/// Most messages of a conversation.
pub const MESSAGES_MAX: usize = 100_000;
/// Most tools of a request.
pub const TOOLS_MAX: usize = 128;
/// Longest name of a tool, in characters.
pub const TOOL_NAME_MAX: usize = 64;
/// Most stop strings of a request.
pub const STOPS_MAX: usize = engine::sample::STOPS_MAX;
/// Longest `user_id`, in bytes.
pub const USER_BYTES_MAX: usize = 512;
/// Most tokens a client may ask for.
pub const TOKENS_ASKED_MAX: u64 = 393_216;

/// Schemas of a request that are compiled to a grammar, in bytes; past it JSON is only held to be
/// JSON, or refused where a schema is strict.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Nodes those schemas may come to when their alternatives are multiplied out.
pub const SCHEMA_NODES_MAX: u64 = 1 << 18;
/// Values of an `enum` that become a grammar.
pub const ENUM_MAX: usize = 1000;
/// Most `$ref` steps that are followed to learn a parameter's type.
pub const REFERENCES_MAX: usize = 16;
/// Calls whose exact text is remembered.
pub const REPLAYS_MAX: usize = 4096;
/// Bytes of one of them; a longer one is not remembered.
pub const REPLAY_BYTES_MAX: usize = 256 << 10;
/// Bytes of all of them.
pub const REPLAYS_BYTES_MAX: usize = 16 << 20;
/// Compiled grammars that are kept.
pub const GRAMMARS_KEPT: usize = 32;
/// Longest time one grammar may take to compile. Usual ones take some tens of milliseconds.
pub const GRAMMAR_TIME: Duration = Duration::from_secs(4);
/// Grammars that are compiled at once; those that have run out of time count until they end.
pub const GRAMMARS_AT_ONCE: usize = 2;

/// Longest piece of a client's text in a message or a log line, in characters.
pub const SHOWN_CHARS_MAX: usize = 60;
