//! The cache's folder: one file per cut, named by a keyed hash, readable by its owner only.
//!
//! A file is written beside its place and renamed into it, so a process that is killed leaves a whole
//! file or none; what a power cut tears, its digests betray. A folder has a secret key of its own: names
//! say nothing about prompts, and a file that was not written with this key is not believed. A file
//! that is damaged, of another version or of another model is removed.
//!
//! Layout, little endian: magic · version u32 · bytes of the header u32 · header · its digest · snapshot
//! ([`Snapshot::to_bytes`]). Header: identity (length u32, UTF-8) · namespace u64 · parent's name (32
//! bytes, zeros if none) · base u32 · bytes of the snapshot u64 · its digest · tokens u32 each. Digests
//! are keyed BLAKE3.
//!
//! Refuses a folder that another process uses. Not here: what to keep, [`super::Cache`] decides.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::SystemTime;

use engine::Snapshot;

use super::NodeId;
use crate::job::Namespace;

const MAGIC: &[u8; 8] = b"HADALPFX";
const VERSION: u32 = 1;
/// Our folder in the one that was given: ours to make private and to clean.
const FOLDER: &str = "prefixes";
const KEY: &str = "key";
const LOCK: &str = "lock";
const SUFFIX: &str = ".prefix";
const SUFFIX_UNFINISHED: &str = ".unfinished";
const DIGEST: usize = 32;
/// Magic, version, header's length.
const FRONT: usize = 16;
/// Longest header: the tokens of the longest context, and what else there is.
const HEADER_BYTES_MAX: usize = 4 * engine::limits::CONTEXT_MAX as usize + 4096;
/// Bytes that may wait to be written; more are not kept on disk.
const PENDING_BYTES_MAX: u64 = 256 << 20;

/// A file's name without its ending.
pub(crate) type Name = [u8; DIGEST];

/// What a file is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) namespace: Namespace,
    /// The file with the tokens before `base`.
    pub(crate) parent: Option<Name>,
    pub(crate) base: u32,
    /// From `base` on.
    pub(crate) tokens: Box<[u32]>,
}

impl Header {
    pub(crate) fn position(&self) -> u32 {
        self.base + self.tokens.len() as u32
    }
}

/// A file that was there at the start.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: Name,
    pub(crate) header: Header,
    pub(crate) bytes: u64,
}

/// What the disk's thread has done.
#[derive(Debug)]
pub(crate) enum Done {
    /// A file could not be written.
    Unwritten(NodeId),
    /// Files that were asked for; `None` for one that cannot be believed.
    Loaded { ticket: u64, read: Vec<(NodeId, Option<Snapshot>)> },
}

enum Order {
    Store { id: NodeId, name: Name, header: Header, snapshot: Arc<Snapshot> },
    Load { ticket: u64, names: Vec<(NodeId, Name)> },
    Touch(Name),
    Remove(Name),
}

/// The folder and the thread that works in it. Dropping it waits until everything is written.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: Arc<Folder>,
    bytes_max: u64,
    pending: Arc<AtomicU64>,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Opens or makes the folder inside `path`, for states of `identity`; returns it with the files
    /// that were there, least recently used first. `done` is called on the disk's thread.
    ///
    /// # Errors
    /// A line: the folder cannot be made, read or locked.
    pub(crate) fn open(
        path: &Path,
        identity: &str,
        bytes_max: u64,
        done: impl Fn(Done) + Send + 'static,
    ) -> Result<(Self, Vec<Found>), String> {
        let at = |error: io::Error| format!("prefix cache {}: {error}", path.display());
        let folder = Arc::new(Folder::open(path, identity)?);
        let found = folder.scan().map_err(at)?;
        let (orders, inbox) = mpsc::channel();
        let pending = Arc::new(AtomicU64::new(0));
        let hands = Hands { folder: Arc::clone(&folder), pending: Arc::clone(&pending) };
        let thread = std::thread::Builder::new()
            .name("hadal-cache".into())
            .spawn(move || {
                for order in inbox {
                    // What breaks here costs a file; whoever waits for the next order must not wait
                    // for ever.
                    let _ = catch_unwind(AssertUnwindSafe(|| hands.obey(order, &done)));
                }
            })
            .map_err(at)?;
        let disk = Disk { folder, bytes_max, pending, orders: Some(orders), thread: Some(thread) };
        Ok((disk, found))
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The name a file would have, and its bytes; `None` if it would be too long.
    pub(crate) fn name_and_bytes(
        &self,
        header: &Header,
        snapshot: &Snapshot,
    ) -> Option<(Name, u64)> {
        let head = self.folder.encode_header(header, 0, [0; DIGEST]);
        if head.len() > HEADER_BYTES_MAX {
            return None;
        }
        let bytes = FRONT + head.len() + DIGEST + snapshot.encoded_bytes();
        Some((self.folder.name(header), bytes as u64))
    }

    /// Writes a file, some time soon; false if too much is waiting already.
    pub(crate) fn store(
        &self,
        id: NodeId,
        name: Name,
        header: Header,
        snapshot: Arc<Snapshot>,
    ) -> bool {
        let bytes = snapshot.size_bytes();
        if self.pending.load(Ordering::Relaxed) + bytes > PENDING_BYTES_MAX {
            return false;
        }
        self.pending.fetch_add(bytes, Ordering::Relaxed);
        self.send(Order::Store { id, name, header, snapshot });
        true
    }

    /// Reads files; [`Done::Loaded`] brings them.
    pub(crate) fn load(&self, ticket: u64, names: Vec<(NodeId, Name)>) {
        self.send(Order::Load { ticket, names });
    }

    /// Says that a file was used.
    pub(crate) fn touch(&self, name: Name) {
        self.send(Order::Touch(name));
    }

    pub(crate) fn remove(&self, name: Name) {
        self.send(Order::Remove(name));
    }

    fn send(&self, order: Order) {
        let orders = self.orders.as_ref().expect("only dropping takes it");
        // The thread lives as long as the sender does.
        let _ = orders.send(order);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // Were it to panic, files would be missing, which the next start sees.
            let _ = thread.join();
        }
    }
}

/// The disk's thread.
struct Hands {
    folder: Arc<Folder>,
    pending: Arc<AtomicU64>,
}

impl Hands {
    fn obey(&self, order: Order, done: &impl Fn(Done)) {
        match order {
            Order::Store { id, name, header, snapshot } => {
                if self.folder.write(&name, &header, &snapshot).is_err() {
                    self.folder.remove(&name);
                    done(Done::Unwritten(id));
                }
                self.pending.fetch_sub(snapshot.size_bytes(), Ordering::Relaxed);
            }
            Order::Load { ticket, names } => {
                // Somebody waits for these, whatever happens here.
                let read = |(id, name): &(NodeId, Name)| {
                    let read = catch_unwind(AssertUnwindSafe(|| self.folder.read(name)));
                    (*id, read.ok().flatten())
                };
                done(Done::Loaded { ticket, read: names.iter().map(read).collect() });
            }
            Order::Touch(name) => {
                // Only the order of eviction after a restart hangs on it.
                let file = File::options().write(true).open(self.folder.path(&name));
                let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
            }
            Order::Remove(name) => self.folder.remove(&name),
        }
    }
}

/// A locked folder with its key.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    identity: String,
    key: [u8; DIGEST],
    pub(super) lock: File,
}

/// A process being started shares every open file until it runs its own program: closing ours would leave
/// the lock with it for that long, so it is given up in words.
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// A line.
    pub(crate) fn open(path: &Path, identity: &str) -> Result<Self, String> {
        let path = path.join(FOLDER);
        let at = |error: io::Error| format!("prefix cache {}: {error}", path.display());
        fs::create_dir_all(&path).map_err(at)?;
        private(&path, 0o700).map_err(at)?;
        let lock = create(&path.join(LOCK), OpenOptions::new().create(true)).map_err(at)?;
        if lock.try_lock().is_err() {
            let place = path.display();
            return Err(format!(
                "prefix cache {place}: another process uses it; give each server a folder of its own"
            ));
        }
        let key = key(&path.join(KEY)).map_err(at)?;
        Ok(Folder { identity: identity.to_owned(), key, path, lock })
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.path.join(hex(name) + SUFFIX)
    }

    fn digest(&self, what: &[u8]) -> [u8; DIGEST] {
        *blake3::keyed_hash(&self.key, what).as_bytes()
    }

    fn name(&self, header: &Header) -> Name {
        self.digest(&self.encode_header(header, 0, [0; DIGEST]))
    }

    fn encode_header(&self, header: &Header, bytes: u64, digest: [u8; DIGEST]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 4 * header.tokens.len());
        out.extend_from_slice(&(self.identity.len() as u32).to_le_bytes());
        out.extend_from_slice(self.identity.as_bytes());
        out.extend_from_slice(&header.namespace.0.to_le_bytes());
        out.extend_from_slice(&header.parent.unwrap_or_default());
        out.extend_from_slice(&header.base.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&digest);
        for token in &header.tokens {
            out.extend_from_slice(&token.to_le_bytes());
        }
        out
    }

    /// The header, and the snapshot's bytes and digest; `None` if it is not one of ours.
    fn decode_header(&self, mut rest: &[u8]) -> Option<(Header, u64, [u8; DIGEST])> {
        let rest = &mut rest;
        let length = u32::from_le_bytes(take(rest)?);
        if rest.split_off(..length as usize)? != self.identity.as_bytes() {
            return None;
        }
        let namespace = Namespace(u64::from_le_bytes(take(rest)?));
        let parent: Name = take(rest)?;
        let base = u32::from_le_bytes(take(rest)?);
        let bytes = u64::from_le_bytes(take(rest)?);
        let digest = take(rest)?;
        let (tokens, odd) = rest.as_chunks::<4>();
        if !odd.is_empty() || tokens.is_empty() {
            return None;
        }
        let tokens = tokens.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let parent = (parent != Name::default()).then_some(parent);
        Some((Header { namespace, parent, base, tokens }, bytes, digest))
    }

    /// Writes a file beside its place and puts it there.
    pub(crate) fn write(
        &self,
        name: &Name,
        header: &Header,
        snapshot: &Snapshot,
    ) -> io::Result<()> {
        let body = snapshot.to_bytes();
        let head = self.encode_header(header, body.len() as u64, self.digest(&body));
        let unfinished = self.path.join(hex(name) + SUFFIX_UNFINISHED);
        let mut file = create(&unfinished, OpenOptions::new().create(true).truncate(true))?;
        file.write_all(MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(&(head.len() as u32).to_le_bytes())?;
        file.write_all(&head)?;
        file.write_all(&self.digest(&head))?;
        file.write_all(&body)?;
        drop(file);
        fs::rename(&unfinished, self.path(name))
    }

    /// Reads a file to the end of its header.
    fn head(&self, file: &mut File) -> Option<(Header, u64, [u8; DIGEST])> {
        let mut front = [0; FRONT];
        file.read_exact(&mut front).ok()?;
        let (magic, rest) = front.split_first_chunk::<8>()?;
        let (version, length) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let ours = magic == MAGIC && u32::from_le_bytes(*version) == VERSION;
        if !ours || length > HEADER_BYTES_MAX || length as u64 > file.metadata().ok()?.len() {
            return None;
        }
        let mut head = vec![0; length];
        file.read_exact(&mut head).ok()?;
        let mut digest = [0; DIGEST];
        file.read_exact(&mut digest).ok()?;
        if blake3::Hash::from_bytes(digest) != blake3::Hash::from_bytes(self.digest(&head)) {
            return None;
        }
        self.decode_header(&head)
    }

    /// The header of a file, if all of the file seems to be there.
    fn header(&self, path: &Path) -> Option<(Header, u64)> {
        let mut file = File::open(path).ok()?;
        let (header, bytes, _) = self.head(&mut file)?;
        let there = file.metadata().ok()?.len();
        let front = FRONT + self.encode_header(&header, 0, [0; DIGEST]).len() + DIGEST;
        (there == front as u64 + bytes).then_some((header, there))
    }

    /// The snapshot of a file, if every byte of it is as it was written.
    pub(crate) fn read(&self, name: &Name) -> Option<Snapshot> {
        let mut file = File::open(self.path(name)).ok()?;
        let (header, bytes, digest) = self.head(&mut file)?;
        let rest = file.metadata().ok()?.len().checked_sub(FRONT as u64)?;
        if bytes > rest || self.name(&header) != *name {
            return None;
        }
        let mut body = Vec::with_capacity(usize::try_from(bytes).ok()?);
        file.read_to_end(&mut body).ok()?;
        if body.len() as u64 != bytes || self.digest(&body) != digest {
            return None;
        }
        let snapshot = Snapshot::from_bytes(&body).ok()?;
        let fits = snapshot.identity == self.identity
            && (snapshot.base, snapshot.position) == (header.base, header.position());
        fits.then_some(snapshot)
    }

    fn remove(&self, name: &Name) {
        // A file that is gone is what was wanted; one that cannot be removed is found again.
        let _ = fs::remove_file(self.path(name));
    }

    /// The files that are there, least recently used first. What is unfinished, damaged or foreign
    /// is removed; what does not have a name of ours is left alone.
    fn scan(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let whole = name.strip_suffix(SUFFIX).and_then(unhex);
            let ours =
                whole.is_some() || name.strip_suffix(SUFFIX_UNFINISHED).and_then(unhex).is_some();
            let header = whole.and_then(|name| {
                let (header, bytes) = self.header(&path)?;
                let used = fs::metadata(&path).and_then(|there| there.modified()).ok()?;
                (self.name(&header) == name).then_some((used, Found { name, header, bytes }))
            });
            match header {
                Some(file) => found.push(file),
                // It is not believed, whether it can be removed or not.
                None if ours => drop(fs::remove_file(&path)),
                None => {}
            }
        }
        found.sort_by_key(|(used, file)| (*used, std::cmp::Reverse(file.header.position())));
        Ok(found.into_iter().map(|(_, file)| file).collect())
    }
}

/// The first bytes of `rest`, which then begins behind them.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N)?.try_into().ok()
}

/// The folder's key; a new one where there is none.
fn key(path: &Path) -> io::Result<[u8; DIGEST]> {
    if let Ok(key) = fs::read(path)
        && let Ok(key) = key.try_into()
    {
        return Ok(key);
    }
    let mut key = [0; DIGEST];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let unfinished = path.with_extension("unfinished");
    create(&unfinished, OpenOptions::new().create(true).truncate(true))?.write_all(&key)?;
    fs::rename(&unfinished, path)?;
    Ok(key)
}

/// Opens a file for writing that only its owner can read.
fn create(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let file = options.write(true).open(path)?;
    private(path, 0o600)?;
    Ok(file)
}

/// Takes the rights of others away, where there are such.
#[cfg(unix)]
fn private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn private(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

fn hex(name: &Name) -> String {
    blake3::Hash::from_bytes(*name).to_hex().to_string()
}

fn unhex(text: &str) -> Option<Name> {
    // One spelling of a name only.
    let name = *blake3::Hash::from_hex(text).ok()?.as_bytes();
    (hex(&name) == text).then_some(name)
}
