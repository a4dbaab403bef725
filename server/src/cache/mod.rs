//! The prefix cache: states of token prefixes, so that a prompt which begins like an earlier one begins
//! where that one stood. In memory, and on disk where a folder is given.
//!
//! A tree for each namespace: a node is a cut, it holds the tokens between its parent's cut and its own,
//! and a snapshot with the entries of just these tokens ([`Snapshot::base`]). Tokens are compared, never
//! only hashes of them. A hit gives the bits of a run without the cache; what is cached changes nothing
//! but time.
//!
//! Both stores have a bound in bytes, and what ended a hit longest ago goes first. What others build on
//! cannot go, but in memory it can become *thin*: its entries stay for the nodes behind it, its rings
//! (several times a turn's entries) go, and nothing resumes at it until its file is read again. So a
//! long conversation keeps its end and its entries, not the rings of all its turns.
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
    /// Its snapshot in memory has entries only.
    thin: bool,
    /// Name and bytes of its file.
    file: Option<(disk::Name, u64)>,
    /// When it last was the end of a hit or new, in uses.
    used: u64,
}

impl Node {
    fn position(&self) -> u32 {
        self.base + self.tokens.len() as u32
    }

    /// Whether something can be resumed behind it.
    fn leads_on(&self) -> bool {
        self.memory.is_some() || self.file.is_some()
    }

    /// Whether something can be resumed at it.
    fn is_end(&self) -> bool {
        self.is_end_in_memory() || self.file.is_some()
    }

    fn is_end_in_memory(&self) -> bool {
        self.memory.is_some() && !self.thin
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
        self.hit(self.deepest(namespace, tokens, Node::leads_on, Node::is_end)?)
    }

    /// The longest cut of `tokens` that is in memory, with all its parents.
    pub(crate) fn find_in_memory(&self, namespace: Namespace, tokens: &[u32]) -> Option<Hit> {
        let there = |node: &Node| node.memory.is_some();
        self.hit(self.deepest(namespace, tokens, there, Node::is_end_in_memory)?)
    }

    fn hit(&self, id: NodeId) -> Option<Hit> {
        Some(Hit { position: self.nodes.get(&id)?.position(), chain: self.chain(id) })
    }

    /// The deepest node along `tokens` that is an end, over nodes that lead on.
    fn deepest(
        &self,
        namespace: Namespace,
        tokens: &[u32],
        leads_on: impl Fn(&Node) -> bool,
        is_end: impl Fn(&Node) -> bool,
    ) -> Option<NodeId> {
        let mut open: Vec<NodeId> = self.roots.get(&namespace)?.clone();
        let mut best: Option<(u32, NodeId)> = None;
        while let Some(id) = open.pop() {
            let node = &self.nodes[&id];
            let fits = tokens.get(node.base as usize..node.position() as usize);
            if fits != Some(&node.tokens[..]) || !leads_on(node) {
                continue;
            }
            if is_end(node) && best.is_none_or(|(position, _)| position < node.position()) {
                best = Some((node.position(), id));
            }
            open.extend(&node.children);
        }
        best.map(|(_, id)| id)
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
        let Some(end) = hit.chain.last().and_then(|id| self.nodes.get_mut(id)) else { return };
        self.uses += 1;
        end.used = self.uses;
        // After a restart the age of a file is all there is to tell.
        if let (Some(disk), Some((name, _))) = (&self.disk, &end.file) {
            disk.touch(*name);
        }
    }

    /// The snapshots of a hit, if all are in memory.
    pub(crate) fn snapshots(&self, hit: &Hit) -> Option<Vec<Arc<Snapshot>>> {
        let end = self.nodes.get(hit.chain.last()?)?;
        if end.thin {
            return None;
        }
        hit.chain.iter().map(|id| self.nodes.get(id)?.memory.clone()).collect()
    }

    /// Asks for the files of a hit that are not in memory; `ticket` comes back with them.
    pub(crate) fn load(&self, hit: &Hit, ticket: u64) {
        let Some(disk) = &self.disk else { return };
        let missing = hit.chain.iter().filter_map(|id| {
            let node = self.nodes.get(id)?;
            let there = match hit.chain.last() == Some(id) {
                true => node.is_end_in_memory(),
                false => node.memory.is_some(),
            };
            if there { None } else { Some((*id, node.file.as_ref()?.0)) }
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
                Some(_) if node.is_end_in_memory() => {}
                Some(snapshot) => self.hold(id, Arc::new(snapshot)),
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

    /// Keeps a whole snapshot in memory.
    fn hold(&mut self, id: NodeId, snapshot: Arc<Snapshot>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.memory_bytes -= node.memory_bytes();
        node.memory = Some(snapshot);
        node.thin = false;
        self.memory_bytes += node.memory_bytes();
    }

    /// Where the state of `tokens` is to be saved.
    pub(crate) fn place(&mut self, namespace: Namespace, tokens: &[u32]) -> Place {
        let deepest = self.deepest(namespace, tokens, Node::leads_on, Node::leads_on);
        let Some(id) = deepest else { return Place::Behind(0) };
        let node = &self.nodes[&id];
        match (node.position() as usize == tokens.len(), node.is_end()) {
            (true, true) => {
                let hit = Hit { position: node.position(), chain: self.chain(id) };
                self.touch(&hit);
                Place::There
            }
            (true, false) => Place::Behind(node.base),
            (false, _) => Place::Behind(node.position()),
        }
    }

    /// Keeps the state of `tokens`: the snapshot's base is what [`Cache::place`] said just before.
    pub(crate) fn insert(&mut self, namespace: Namespace, tokens: &[u32], snapshot: Snapshot) {
        let base = snapshot.base;
        if bytes_of(&snapshot, &tokens[base as usize..]) > self.memory_bytes_max {
            return;
        }
        let deepest = self.deepest(namespace, tokens, Node::leads_on, Node::leads_on);
        let found = deepest.map(|id| (id, self.nodes[&id].base, self.nodes[&id].position()));
        let snapshot = Arc::new(snapshot);
        let id = match found {
            // It was thin.
            Some((id, of, position)) if position as usize == tokens.len() && of == base => id,
            Some((id, _, position)) if position == base => {
                self.attach(namespace, Some(id), base, &tokens[base as usize..])
            }
            None if base == 0 => self.attach(namespace, None, 0, tokens),
            _ => return,
        };
        self.uses += 1;
        self.nodes.get_mut(&id).expect("attached or found above").used = self.uses;
        self.hold(id, Arc::clone(&snapshot));
        self.store(id, &snapshot);
        self.trim();
    }

    /// Sends a node to disk, if its parents are there.
    fn store(&mut self, id: NodeId, snapshot: &Arc<Snapshot>) {
        let Some(disk) = &self.disk else { return };
        let node = &self.nodes[&id];
        if node.file.is_some() {
            return;
        }
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
        self.trim_files(bytes);
        // Making room may have taken a parent's file, if the bound is that small.
        let parent = self.nodes.get(&id).map(|node| node.parent);
        let whole = match parent {
            None => false,
            Some(None) => true,
            Some(Some(parent)) => self.nodes.get(&parent).is_some_and(|node| node.file.is_some()),
        };
        let Some(disk) = &self.disk else { return };
        if !whole || self.file_bytes + bytes > disk.bytes_max() {
            return;
        }
        if disk.store(id, name, header, Arc::clone(snapshot)) {
            self.nodes.get_mut(&id).expect("its parent was just found").file = Some((name, bytes));
            self.file_bytes += bytes;
        }
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
            thin: false,
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

    /// Lets rings and snapshots go until memory and the number of nodes are within their bounds.
    pub(crate) fn trim(&mut self) {
        while self.memory_bytes > self.memory_bytes_max {
            let leaf = |node: &Node| !self.any_child(node, |child| child.memory.is_some());
            let can_go = |node: &Node| node.memory.is_some() && (!node.thin || leaf(node));
            let Some(id) = self.oldest(can_go) else { break };
            let node = &self.nodes[&id];
            if leaf(node) {
                self.evicted += 1;
                self.drop_memory(id);
                continue;
            }
            let entries = node.memory.as_ref().map(|snapshot| Arc::new(snapshot.entries()));
            let node = self.nodes.get_mut(&id).expect("it was just found");
            self.memory_bytes -= node.memory_bytes();
            node.memory = entries;
            node.thin = true;
            self.memory_bytes += node.memory_bytes();
        }
        while self.nodes.len() > NODES_MAX {
            let Some(id) = self.oldest(|node| node.children.is_empty()) else { return };
            self.evicted += 1;
            self.remove(id);
        }
    }

    fn drop_memory(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.memory_bytes -= node.memory_bytes();
        node.memory = None;
        node.thin = false;
        if node.file.is_none() {
            self.remove(id);
        }
    }

    /// Lets files go until `bytes` more are within the bound.
    fn trim_files(&mut self, bytes: u64) {
        let Some(most) = self.disk.as_ref().map(disk::Disk::bytes_max) else { return };
        while self.file_bytes > 0 && self.file_bytes + bytes > most {
            let leaf = |node: &Node| !self.any_child(node, |child| child.file.is_some());
            let Some(id) = self.oldest(|node| node.file.is_some() && leaf(node)) else { return };
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

    fn any_child(&self, node: &Node, what: impl Fn(&Node) -> bool) -> bool {
        node.children.iter().any(|child| self.nodes.get(child).is_some_and(&what))
    }

    /// The node that ended a hit longest ago, of those that `can_go`; of equals the deepest.
    fn oldest(&self, can_go: impl Fn(&Node) -> bool) -> Option<NodeId> {
        let nodes = self.nodes.iter().filter(|(_, node)| can_go(node));
        nodes.min_by_key(|(_, node)| (node.used, Reverse(node.position()))).map(|(id, _)| *id)
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
