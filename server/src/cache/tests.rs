//! Laws of the prefix cache: what it finds is the longest cut there is, its bounds hold, a folder
//! survives restarts, kills and damage.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::Snapshot;
use engine::state::snapshot::Section;

use super::disk::{Disk, Done, Folder, Found, Header};
use super::*;

const IDENTITY: &str = "model/served/class";

/// Bytes of a test snapshot's rings.
const RING_BYTES: usize = 320;

/// A snapshot whose bytes say what it is of: entries of 32 bytes a token, and rings.
fn snapshot(tokens: &[u32], base: u32) -> Snapshot {
    let rest = &tokens[base as usize..];
    let bytes = rest.iter().flat_map(|token| token.to_le_bytes().repeat(8)).collect();
    let entries = Section { row_bytes: 32, grows: true, bytes };
    let ring = vec![tokens.len() as u8; RING_BYTES];
    let sections = vec![entries, Section { row_bytes: 32, grows: false, bytes: ring }];
    Snapshot { identity: IDENTITY.into(), base, position: tokens.len() as u32, sections }
}

fn put(cache: &mut Cache, namespace: u64, tokens: &[u32]) {
    let namespace = Namespace(namespace);
    if let Place::Behind(base) = cache.place(namespace, tokens) {
        cache.insert(namespace, tokens, snapshot(tokens, base));
    }
}

fn length(cache: &Cache, namespace: u64, tokens: &[u32]) -> u32 {
    cache.find(Namespace(namespace), tokens).map_or(0, |hit| hit.position)
}

/// A hit's snapshots cover its tokens without a gap, with the right bytes.
fn check_hit(cache: &Cache, namespace: u64, tokens: &[u32]) {
    let Some(hit) = cache.find_in_memory(Namespace(namespace), tokens) else { return };
    let mut end = 0;
    for link in cache.snapshots(&hit).expect("it is in memory") {
        assert_eq!(link.base, end);
        end = link.position;
        let whole = snapshot(&tokens[..end as usize], link.base);
        assert!(*link == whole || (end < hit.position && *link == whole.entries()));
    }
    assert_eq!(end, hit.position);
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    /// Tokens of few kinds, so that prefixes are shared.
    fn tokens(&mut self) -> Vec<u32> {
        let count = 1 + self.below(9);
        (0..count).flat_map(|_| [self.below(2) as u32; 3]).collect()
    }
}

/// A folder that goes when the test does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hadal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Scratch(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.0.join("prefixes")).expect("the folder is there");
        let paths = folder.map(|entry| entry.expect("it can be read").path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "prefix")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the disk's thread said.
type Said = Arc<Mutex<Vec<Done>>>;

fn open(path: &Path, bytes_max: u64) -> (Disk, Vec<Found>, Said) {
    let said = Said::default();
    let ear = Arc::clone(&said);
    let done = move |done| ear.lock().unwrap_or_else(PoisonError::into_inner).push(done);
    let (disk, found) = Disk::open(path, IDENTITY, bytes_max, done).expect("the folder opens");
    (disk, found, said)
}

fn on_disk(path: &Path, memory: u64, bytes_max: u64) -> (Cache, Said) {
    let (disk, found, said) = open(path, bytes_max);
    (Cache::new(memory, Some((disk, found))), said)
}

/// Loads a hit's files.
fn load(cache: &mut Cache, said: &Said, hit: &Hit) {
    cache.load(hit, 7);
    loop {
        let done = said.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match done {
            Some(Done::Loaded { ticket: 7, read }) => return cache.loaded(read),
            Some(other) => panic!("{other:?}"),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[test]
fn the_longest_cut_is_found_and_bounds_hold() {
    for seed in 0..40 {
        let random = &mut Random(seed);
        let roomy = seed % 2 == 0;
        let most = if roomy { 1 << 20 } else { 5000 };
        let mut cache = Cache::new(most, None);
        let mut there: BTreeSet<(u64, Vec<u32>)> = BTreeSet::new();
        for _ in 0..200 {
            let (namespace, tokens) = (random.below(3), random.tokens());
            if random.below(2) == 0 {
                put(&mut cache, namespace, &tokens);
                there.insert((namespace, tokens.clone()));
            }
            let want = (1..=tokens.len())
                .rev()
                .find(|&end| there.contains(&(namespace, tokens[..end].to_vec())));
            let got = length(&cache, namespace, &tokens) as usize;
            match roomy {
                true => assert_eq!(got, want.unwrap_or(0), "seed {seed}: {tokens:?}"),
                false => assert!(got <= want.unwrap_or(0), "seed {seed}: {tokens:?}"),
            }
            check_hit(&cache, namespace, &tokens);
            let figures = cache.figures();
            let held: u64 = cache.nodes.values().map(Node::memory_bytes).sum();
            assert_eq!(figures.memory_bytes, held, "seed {seed}");
            assert!(held <= most, "seed {seed}: {held} bytes");
        }
        assert_eq!(cache.figures().evicted > 0, !roomy, "seed {seed}");
        let all: Vec<NodeId> = cache.nodes.keys().copied().collect();
        all.into_iter().for_each(|id| cache.remove(id));
        assert_eq!((cache.figures().memory_bytes, cache.roots.len()), (0, 0));
    }
}

#[test]
fn a_long_conversation_keeps_its_end_and_lets_old_rings_go() {
    let mut tokens = vec![1; 20];
    // The entries of the whole conversation and a few rings.
    let most = 100 * (10 * 36 + NODE_BYTES) + 5 * RING_BYTES as u64;
    let mut cache = Cache::new(most, None);
    put(&mut cache, 1, &tokens);
    for turn in 0..90 {
        tokens.extend([turn; 10]);
        put(&mut cache, 1, &tokens);
        assert_eq!(length(&cache, 1, &tokens) as usize, tokens.len(), "turn {turn}");
        check_hit(&cache, 1, &tokens);
        assert!(cache.figures().memory_bytes <= most);
    }
    assert_eq!(cache.figures().evicted, 0);
    assert_eq!(length(&cache, 1, &tokens[..400]), 0, "nothing resumes at thin nodes");
    // Saving it again makes a thin node whole.
    put(&mut cache, 1, &tokens[..400]);
    assert_eq!(length(&cache, 1, &tokens[..400]), 400);
    check_hit(&cache, 1, &tokens[..400]);
    assert_eq!(length(&cache, 1, &tokens) as usize, tokens.len());
    // Something else that is larger than what is left makes the end go, not the bound.
    put(&mut cache, 2, &[7; 300]);
    assert!(cache.figures().memory_bytes <= most);
}

#[test]
fn what_is_used_stays_and_namespaces_share_nothing() {
    let tokens = |kind: u32| vec![kind; 40];
    let each = bytes_of(&snapshot(&tokens(0), 0), &tokens(0));
    let mut cache = Cache::new(3 * each, None);
    for kind in 0..3 {
        put(&mut cache, 1, &tokens(kind));
    }
    let hit = cache.find(Namespace(1), &tokens(0)).expect("it is there");
    cache.touch(&hit);
    put(&mut cache, 1, &tokens(3));
    let there = [0, 1, 2, 3].map(|kind| length(&cache, 1, &tokens(kind)));
    assert_eq!(there, [40, 0, 40, 40], "the least recently used one went");
    assert_eq!(length(&cache, 2, &tokens(0)), 0, "another namespace");
}

#[test]
fn a_folder_remembers_after_a_restart_and_only_its_owner_reads_it() {
    let scratch = Scratch::new("restart");
    let (short, long) = (vec![5; 40], [vec![5; 40], vec![6; 30]].concat());
    let (mut cache, _) = on_disk(&scratch.0, 1 << 20, 1 << 20);
    put(&mut cache, 1, &short);
    put(&mut cache, 1, &long);
    drop(cache);
    let (mut cache, said) = on_disk(&scratch.0, 1 << 20, 1 << 20);
    let hit = cache.find(Namespace(1), &long).expect("it is remembered");
    assert_eq!((hit.position, hit.chain.len()), (70, 2));
    assert!(cache.find_in_memory(Namespace(1), &long).is_none());
    assert_eq!(length(&cache, 2, &long), 0, "another namespace");
    load(&mut cache, &said, &hit);
    check_hit(&cache, 1, &long);
    assert_eq!(cache.find_in_memory(Namespace(1), &long), Some(hit));
    #[cfg(unix)]
    for path in scratch.files().into_iter().chain([scratch.0.join("prefixes")]) {
        use std::os::unix::fs::PermissionsExt;
        let there = fs::metadata(&path).expect("it is there");
        let want = if there.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(there.permissions().mode() & 0o777, want, "{}", path.display());
    }
    let refusal = Folder::open(&scratch.0, IDENTITY).unwrap_err();
    assert!(refusal.contains("another process uses it"), "{refusal}");
}

#[test]
fn files_stay_within_their_bound_and_the_oldest_go() {
    let scratch = Scratch::new("bound");
    let (probe, ..) = open(&scratch.0, 0);
    let header = |kind: u32| Header {
        namespace: Namespace(1),
        parent: None,
        base: 0,
        tokens: vec![kind; 40].into(),
    };
    let each = probe.name_and_bytes(&header(0), &snapshot(&[0; 40], 0)).expect("it is short").1;
    drop(probe);
    let (mut cache, _) = on_disk(&scratch.0, 1 << 20, 3 * each);
    for kind in 0..5 {
        put(&mut cache, 1, &[kind; 40]);
        assert!(cache.figures().file_bytes <= 3 * each);
    }
    drop(cache);
    let bytes: u64 = scratch.files().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(bytes, 3 * each);
    let (cache, _) = on_disk(&scratch.0, 1 << 20, 3 * each);
    let there = [0, 1, 2, 3, 4].map(|kind| length(&cache, 1, &[kind; 40]));
    assert_eq!(there, [0, 0, 40, 40, 40]);
    drop(cache);
    let (cache, _) = on_disk(&scratch.0, 1 << 20, each);
    assert_eq!(cache.figures().file_bytes, each, "a smaller bound holds from the start");
}

#[test]
fn a_file_cut_at_any_byte_or_changed_anywhere_is_not_believed() {
    let scratch = Scratch::new("damage");
    let tokens = vec![5; 12];
    let (mut cache, _) = on_disk(&scratch.0, 1 << 20, 1 << 20);
    put(&mut cache, 1, &tokens);
    drop(cache);
    let path = scratch.files().pop().expect("one file");
    let whole = fs::read(&path).expect("it can be read");
    let name = {
        let (disk, mut found, _) = open(&scratch.0, 1 << 20);
        drop(disk);
        found.pop().expect("one file").name
    };
    let believed = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("it can be written");
        let folder = Folder::open(&scratch.0, IDENTITY).expect("the folder opens");
        folder.read(&name).is_some()
    };
    assert!(believed(&whole));
    for end in 0..whole.len() {
        assert!(!believed(&whole[..end]), "cut at {end}");
    }
    assert!(!believed(&[&whole[..], b"x"].concat()));
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        assert!(!believed(&changed), "changed at {place}");
    }
    // A cut file does not survive a start, nor does an unfinished one; what is not ours does.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    fs::write(path.with_extension("unfinished"), &whole).unwrap();
    fs::write(path.with_file_name("notes.txt"), b"mine").unwrap();
    let (cache, _) = on_disk(&scratch.0, 1 << 20, 1 << 20);
    assert_eq!(length(&cache, 1, &tokens), 0);
    assert!(!path.exists() && !path.with_extension("unfinished").exists());
    assert!(path.with_file_name("notes.txt").exists());
}

#[test]
fn a_closed_folder_is_free_even_while_a_child_process_starts() {
    let scratch = Scratch::new("lock");
    let folder = Folder::open(&scratch.0, IDENTITY).expect("the folder opens");
    // What a child has between fork and exec: the same open file.
    let inherited = folder.lock.try_clone().expect("a second handle");
    let refused = Folder::open(&scratch.0, IDENTITY).expect_err("it is in use");
    assert!(refused.contains("another process uses it"), "{refused}");
    drop(folder);
    Folder::open(&scratch.0, IDENTITY).expect("it is free again");
    drop(inherited);
}

#[test]
fn damage_found_late_is_forgotten_with_what_lies_behind_it() {
    let scratch = Scratch::new("late");
    let (short, long) = (vec![5; 40], [vec![5; 40], vec![6; 30]].concat());
    let (mut cache, _) = on_disk(&scratch.0, 1 << 20, 1 << 20);
    put(&mut cache, 1, &short);
    put(&mut cache, 1, &long);
    drop(cache);
    let (mut cache, said) = on_disk(&scratch.0, 1 << 20, 1 << 20);
    for path in scratch.files() {
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let hit = cache.find(Namespace(1), &long).expect("its header is whole");
    load(&mut cache, &said, &hit);
    assert_eq!((length(&cache, 1, &long), cache.figures().nodes), (0, 0));
    assert_eq!((cache.figures().file_bytes, cache.figures().broken), (0, 1));
    drop(cache);
    assert_eq!(scratch.files().len(), 0);
}

#[test]
fn files_of_another_model_or_key_and_orphans_are_removed() {
    let scratch = Scratch::new("foreign");
    let (short, long) = (vec![5; 40], [vec![5; 40], vec![6; 30]].concat());
    let fill = || {
        let (mut cache, _) = on_disk(&scratch.0, 1 << 20, 1 << 20);
        put(&mut cache, 1, &short);
        put(&mut cache, 1, &long);
    };
    fill();
    let (disk, found) =
        Disk::open(&scratch.0, "another/model", 1 << 20, |_| {}).expect("the folder opens");
    drop(disk);
    assert_eq!((found.len(), scratch.files().len()), (0, 0));
    fill();
    fs::write(scratch.0.join("prefixes/key"), [1; 32]).unwrap();
    drop(on_disk(&scratch.0, 1 << 20, 1 << 20));
    assert_eq!(scratch.files().len(), 0);
    fill();
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let parent = scratch.files().into_iter().max_by_key(size).expect("two files");
    fs::remove_file(parent).unwrap();
    drop(on_disk(&scratch.0, 1 << 20, 1 << 20));
    assert_eq!(scratch.files().len(), 0, "a file without its parent is of no use");
}

/// How the child process of the next test learns its folder.
const FOLDER_OF_CHILD: &str = "HADAL_TEST_CACHE_FOLDER";

#[test]
#[ignore = "the child process of a_killed_writer_leaves_whole_files_only"]
fn writes_until_it_is_killed() {
    let Ok(path) = std::env::var(FOLDER_OF_CHILD) else { return };
    let (mut cache, _) = on_disk(Path::new(&path), 1 << 30, 8 << 20);
    let random = &mut Random(u64::from(std::process::id()));
    loop {
        let tokens: Vec<u32> =
            (0..2000).map(|place| random.below(1 << 20) as u32 + place).collect();
        put(&mut cache, 1, &tokens);
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[test]
fn a_killed_writer_leaves_whole_files_only() {
    /// Processes killed.
    const KILLS: u64 = 30;
    let scratch = Scratch::new("kill");
    let random = &mut Random(11);
    let mut most = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("a test has a path"))
            .args(["--ignored", "--exact", "cache::tests::writes_until_it_is_killed"])
            .env(FOLDER_OF_CHILD, &scratch.0)
            .stdout(Stdio::null())
            .spawn()
            .expect("the child starts");
        std::thread::sleep(Duration::from_micros(20_000 + random.below(60_000)));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let (disk, found, _) = open(&scratch.0, 8 << 20);
        drop(disk);
        most = most.max(found.len());
        let folder = Folder::open(&scratch.0, IDENTITY).expect("the folder opens");
        for file in &found {
            let read =
                folder.read(&file.name).unwrap_or_else(|| panic!("kill {kill}: a torn file"));
            assert_eq!(read, snapshot(&file.header.tokens, 0), "kill {kill}");
        }
    }
    assert!(most > 0, "no child wrote anything");
}
