//! The prefix cache: states of token prefixes, so that a prompt which begins like an earlier one begins
//! where that one stood. In memory, and on disk where a folder is given.
//!
//! A tree for each namespace: a node is a cut, it holds the tokens between its parent's cut and its own,
//! and a snapshot with the entries of just these tokens ([`Snapshot::base`]). A node whose snapshot is in
//! memory, on disk or both can be resumed at, because its parents can. Tokens are compared, never
//! only hashes of them. A hit gives the bits of a run without the cache; what is cached changes nothing
//! but time.
//!
//! Both stores have a bound in bytes and let the least recently used go first. Using a node is using
//! its parents, so no parent goes before its children.
//!
//! Refuses nothing: what cannot be kept is not kept, what cannot be read back is forgotten.

pub(crate) mod cuts;
pub(crate) mod disk;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use engine::Snapshot;

use crate::job::Namespace;

/// Nodes of the tree: bounds the time of a look-up.
const NODES_MAX: usize = 1 << 16;
/// What a node takes besides its snapshot and tokens, in bytes.
const NODE_BYTES: u64 = 256;

/// A node's number; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u64);

#[derive(Debug)]
struct Node {
    namespace: Namespace,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    base: u32,
    /// From `base` to its position.
    tokens: Box<[u32]>,
    memory: Option<Arc<Snapshot>>,
    /// Name and bytes of its file.
    file: Option<(disk::Name, u64)>,
    /// When it was last used, in uses.
    used: u64,
}

impl Node {
    fn position(&self) -> u32 {
        self.base + self.tokens.len() as u32
    }

    fn memory_bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, |snapshot| bytes_of(snapshot, &self.tokens))
    }

    fn file_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

fn bytes_of(snapshot: &Snapshot, tokens: &[u32]) -> u64 {
    snapshot.size_bytes() + 4 * tokens.len() as u64 + NODE_BYTES
}

/// Where a prefix is to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is there already.
    There,
    /// Behind this position, which is there.
    Behind(u32),
}

/// A prefix that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Its length in tokens.
    pub(crate) position: u32,
    /// Nodes from the first tokens on.
    pub(crate) chain: Vec<NodeId>,
}

/// What the cache holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) nodes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) evicted: u64,
    pub(crate) broken: u64,
}

/// The cache. Owned by the worker's thread; files are written and read by [`disk::Disk`]'s.
#[derive(Debug)]
pub(crate) struct Cache {
    nodes: BTreeMap<NodeId, Node>,
    roots: BTreeMap<Namespace, Vec<NodeId>>,
    next: u64,
    uses: u64,
    memory_bytes_max: u64,
    memory_bytes: u64,
    file_bytes: u64,
    disk: Option<disk::Disk>,
    evicted: u64,
    broken: u64,
}

impl Cache {
    /// An empty cache of at most `memory_bytes_max` in memory, with what `disk` remembers.
    pub(crate) fn new(memory_bytes_max: u64, disk: Option<(disk::Disk, Vec<disk::Found>)>) -> Self {
        let (disk, found) = match disk {
            Some((disk, found)) => (Some(disk), found),
            None => (None, Vec::new()),
        };
        let mut cache = Cache {
            nodes: BTreeMap::new(),
            roots: BTreeMap::new(),
            next: 0,
            uses: 0,
            memory_bytes_max,
            memory_bytes: 0,
            file_bytes: 0,
            disk,
            evicted: 0,
            broken: 0,
        };
        cache.remember(found);
        cache
    }

    /// Whether nothing is ever kept.
    pub(crate) fn is_off(&self) -> bool {
        self.memory_bytes_max == 0
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            nodes: self.nodes.len() as u64,
            memory_bytes: self.memory_bytes,
            file_bytes: self.file_bytes,
            evicted: self.evicted,
            broken: self.broken,
        }
    }

    /// Puts found files, least recently used first, where their parents are; the others are removed.
    fn remember(&mut self, found: Vec<disk::Found>) {
        let mut by_name: BTreeMap<disk::Name, NodeId> = BTreeMap::new();
        let mut found: Vec<_> = found.into_iter().enumerate().collect();
        // A parent's position is below its children's.
        found.sort_by_key(|(_, file)| file.header.position());
        for (age, file) in found {
            let disk::Found { name, header, bytes } = file;
            let parent = header.parent.as_ref().and_then(|name| by_name.get(name).copied());
            let fits = match (&header.parent, parent) {
                (None, _) => header.base == 0,
                (Some(_), None) => false,
                (Some(_), Some(id)) => {
                    let node = &self.nodes[&id];
                    node.position() == header.base && node.namespace == header.namespace
                }
            };
            if !fits || self.nodes.len() >= NODES_MAX {
                self.forget_file(&name);
                continue;
            }
            let id = self.attach(header.namespace, parent, header.base, &header.tokens);
            let node = self.nodes.get_mut(&id).expect("attached above");
            node.used = age as u64;
            node.file = Some((name, bytes));
            self.file_bytes += bytes;
            by_name.insert(name, id);
        }
        self.uses = self.nodes.len() as u64;
        self.trim_files(0);
    }

    /// The longest cut of `tokens` that is there.
    pub(crate) fn find(&self, namespace: Namespace, tokens: &[u32]) -> Option<Hit> {
        self.deepest(namespace, tokens, |_| true)
    }

    /// The longest cut of `tokens` that is in memory, with all its parents.
    pub(crate) fn find_in_memory(&self, namespace: Namespace, tokens: &[u32]) -> Option<Hit> {
        self.deepest(namespace, tokens, |node| node.memory.is_some())
    }

    fn deepest(
        &self,
        namespace: Namespace,
        tokens: &[u32],
        usable: impl Fn(&Node) -> bool,
    ) -> Option<Hit> {
        let mut open: Vec<NodeId> = self.roots.get(&namespace)?.clone();
        let mut best: Option<NodeId> = None;
        while let Some(id) = open.pop() {
            let node = &self.nodes[&id];
            let fits = tokens.get(node.base as usize..node.position() as usize);
            if fits != Some(&node.tokens[..]) || !usable(node) {
                continue;
            }
            if best.is_none_or(|best| self.nodes[&best].position() < node.position()) {
                best = Some(id);
            }
            open.extend(&node.children);
        }
        let chain = self.chain(best?);
        Some(Hit { position: self.nodes[&best?].position(), chain })
    }

    /// A node and its parents, from the root.
    fn chain(&self, id: NodeId) -> Vec<NodeId> {
        let mut chain = vec![id];
        let mut at = id;
        while let Some(parent) = self.nodes[&at].parent {
            chain.push(parent);
            at = parent;
        }
        chain.reverse();
        chain
    }

    /// Says that a hit is being used.
    pub(crate) fn touch(&mut self, hit: &Hit) {
        self.uses += 1;
        let mut names = Vec::new();
        for id in &hit.chain {
            if let Some(node) = self.nodes.get_mut(id) {
                node.used = self.uses;
                names.extend(node.file.as_ref().map(|(name, _)| *name));
            }
        }
        if let Some(disk) = &self.disk {
            disk.touch(names);
        }
    }

    /// The snapshots of a hit, if all are in memory.
    pub(crate) fn snapshots(&self, hit: &Hit) -> Option<Vec<Arc<Snapshot>>> {
        hit.chain.iter().map(|id| self.nodes.get(id)?.memory.clone()).collect()
    }

    /// Asks for the files of a hit that are not in memory; `ticket` comes back with them.
    pub(crate) fn load(&self, hit: &Hit, ticket: u64) {
        let Some(disk) = &self.disk else { return };
        let missing = hit.chain.iter().filter_map(|id| {
            let node = self.nodes.get(id).filter(|node| node.memory.is_none())?;
            Some((*id, node.file.as_ref()?.0))
        });
        disk.load(ticket, missing.collect());
    }

    /// Takes files that were read. One that could not be is forgotten, with what lies behind it. May
    /// leave the cache above its bound until [`Cache::trim`].
    pub(crate) fn loaded(&mut self, read: Vec<(NodeId, Option<Snapshot>)>) {
        for (id, snapshot) in read {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            match snapshot {
                None => {
                    self.broken += 1;
                    self.remove(id);
                }
                Some(_) if node.memory.is_some() => {}
                Some(snapshot) => {
                    node.memory = Some(Arc::new(snapshot));
                    self.memory_bytes += self.nodes[&id].memory_bytes();
                }
            }
        }
    }

    /// Forgets a hit that cannot be used, from its first node on.
    pub(crate) fn forget(&mut self, hit: &Hit) {
        self.broken += 1;
        hit.chain.first().copied().into_iter().for_each(|id| self.remove(id));
    }

    /// A file could not be written: its node lives in memory only.
    pub(crate) fn unwritten(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if let Some((_, bytes)) = node.file.take() {
            self.file_bytes -= bytes;
        }
        if self.nodes[&id].memory.is_none() {
            self.remove(id);
        }
    }

    /// Where the state of `tokens` is to be saved.
    pub(crate) fn place(&mut self, namespace: Namespace, tokens: &[u32]) -> Place {
        let Some(hit) = self.find(namespace, tokens) else { return Place::Behind(0) };
        self.touch(&hit);
        match hit.position as usize == tokens.len() {
            true => Place::There,
            false => Place::Behind(hit.position),
        }
    }

    /// Keeps the state of `tokens`: the snapshot's base is what [`Cache::place`] said just before.
    pub(crate) fn insert(&mut self, namespace: Namespace, tokens: &[u32], snapshot: Snapshot) {
        let bytes = bytes_of(&snapshot, &tokens[snapshot.base as usize..]);
        if bytes > self.memory_bytes_max || self.nodes.len() >= NODES_MAX {
            return;
        }
        let hit = self.find(namespace, tokens);
        let position = hit.as_ref().map_or(0, |hit| hit.position);
        assert_eq!(position, snapshot.base, "nothing came or went since its place was asked for");
        let parent = hit.and_then(|hit| hit.chain.last().copied());
        let snapshot = Arc::new(snapshot);
        let id = self.attach(namespace, parent, position, &tokens[position as usize..]);
        let node = self.nodes.get_mut(&id).expect("attached above");
        self.uses += 1;
        node.used = self.uses;
        node.memory = Some(Arc::clone(&snapshot));
        self.memory_bytes += bytes;
        for id in self.chain(id) {
            self.nodes.get_mut(&id).expect("of a chain").used = self.uses;
        }
        self.store(id, &snapshot);
        self.trim();
    }

    /// Sends a node to disk, if its parents are there.
    fn store(&mut self, id: NodeId, snapshot: &Arc<Snapshot>) {
        let Some(disk) = &self.disk else { return };
        let node = &self.nodes[&id];
        let parent = match node.parent.map(|parent| &self.nodes[&parent].file) {
            None => None,
            Some(Some((name, _))) => Some(*name),
            Some(None) => return,
        };
        let header = disk::Header {
            namespace: node.namespace,
            parent,
            base: node.base,
            tokens: node.tokens.clone(),
        };
        let Some((name, bytes)) = disk.name_and_bytes(&header, snapshot) else { return };
        let chain = self.chain(id);
        self.trim_files(bytes);
        // Making room may have taken a parent's file, if the bound is that small.
        let whole = chain.iter().rev().skip(1).all(|id| self.has_file(id));
        let Some(disk) = &self.disk else { return };
        if !whole || self.file_bytes + bytes > disk.bytes_max() {
            return;
        }
        if disk.store(id, name, header, Arc::clone(snapshot)) {
            self.nodes.get_mut(&id).expect("it was just attached").file = Some((name, bytes));
            self.file_bytes += bytes;
        }
    }

    fn has_file(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.file.is_some())
    }

    fn attach(
        &mut self,
        namespace: Namespace,
        parent: Option<NodeId>,
        base: u32,
        tokens: &[u32],
    ) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        let node = Node {
            namespace,
            parent,
            children: Vec::new(),
            base,
            tokens: tokens.into(),
            memory: None,
            file: None,
            used: 0,
        };
        self.nodes.insert(id, node);
        match parent {
            Some(parent) => {
                self.nodes.get_mut(&parent).expect("parents are there").children.push(id)
            }
            None => self.roots.entry(namespace).or_default().push(id),
        }
        id
    }

    /// Lets snapshots go until memory is within its bound.
    pub(crate) fn trim(&mut self) {
        while self.memory_bytes > self.memory_bytes_max {
            let held = self.nodes.iter().filter(|(_, node)| node.memory.is_some());
            let Some(id) = oldest(held) else { return };
            self.evicted += 1;
            let node = self.nodes.get_mut(&id).expect("it was just found");
            self.memory_bytes -= node.memory_bytes();
            node.memory = None;
            if node.file.is_none() {
                self.remove(id);
            }
        }
    }

    /// Lets files go until `bytes` more are within the bound.
    fn trim_files(&mut self, bytes: u64) {
        let Some(most) = self.disk.as_ref().map(disk::Disk::bytes_max) else { return };
        while self.file_bytes > 0 && self.file_bytes + bytes > most {
            let held = self.nodes.iter().filter(|(_, node)| node.file.is_some());
            let Some(id) = oldest(held) else { return };
            self.evicted += 1;
            let node = self.nodes.get_mut(&id).expect("it was just found");
            let (name, bytes) = node.file.take().expect("it has one");
            let lost = node.memory.is_none();
            self.file_bytes -= bytes;
            self.forget_file(&name);
            if lost {
                self.remove(id);
            }
        }
    }

    fn forget_file(&self, name: &disk::Name) {
        if let Some(disk) = &self.disk {
            disk.remove(*name);
        }
    }

    /// Removes a node and what lies behind it.
    fn remove(&mut self, id: NodeId) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let Some(node) = self.nodes.remove(&id) else { continue };
            self.memory_bytes -= node.memory_bytes();
            self.file_bytes -= node.file_bytes();
            if let Some((name, _)) = &node.file {
                self.forget_file(name);
            }
            let siblings = match node.parent {
                Some(parent) => self.nodes.get_mut(&parent).map(|parent| &mut parent.children),
                None => self.roots.get_mut(&node.namespace),
            };
            if let Some(siblings) = siblings {
                siblings.retain(|sibling| *sibling != id);
            }
            if self.roots.get(&node.namespace).is_some_and(Vec::is_empty) {
                self.roots.remove(&node.namespace);
            }
            open.extend(node.children);
        }
    }
}

/// The least recently used node, and of those used together the one farthest from the root.
fn oldest<'a>(nodes: impl Iterator<Item = (&'a NodeId, &'a Node)>) -> Option<NodeId> {
    nodes.min_by_key(|(_, node)| (node.used, Reverse(node.position()))).map(|(id, _)| *id)
}
