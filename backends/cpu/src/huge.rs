//! Moves the files that weights lie in to huge pages, behind the back of who reads them.
//!
//! Every token reads most weights once, and a page of 4 KiB of a mapped file costs a walk through the
//! page tables each time: with pages of 2 MiB a token takes a fifth less time on some machines (figures in
//! docs/reports/2026-11-28-cpu-xeon.md). A thread of its own does it while the model is used already,
//! because a system whose memory is in pieces takes seconds a gigabyte to make room.
//!
//! Refuses nothing: what gets no huge page, or comes after the budget is spent, is read where the loader
//! mapped it.

use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use hal::ByteOwner;

/// Whether this system gives huge pages to who asks for them.
pub(crate) fn available() -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    fs::read_to_string(path).is_ok_and(|text| !text.contains("[never]"))
}

/// The thread and what it has to do.
#[derive(Debug)]
pub(crate) struct Promoter {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Bytes that may still be moved.
    left: u64,
    /// All owners there have been. Not kept alive: who drops a model should not wait.
    owners: Vec<Weak<dyn ByteOwner>>,
    /// How many of them are done.
    done: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} owners, {} bytes left", self.done, self.owners.len(), self.left)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks while `waiting` says so.
    fn wait(&self, waiting: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let woken = self.changed.wait_while(self.state(), |state| waiting(state));
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` from the budget.
    fn take(&self, bytes: u64) -> bool {
        let mut state = self.state();
        let granted = !state.closed && bytes <= state.left;
        state.left -= if granted { bytes } else { 0 };
        granted
    }

    fn work(&self) {
        loop {
            let state = self.wait(|state| !state.closed && state.done == state.owners.len());
            if state.closed {
                return;
            }
            let owner = state.owners[state.done].upgrade();
            drop(state);
            if let Some(owner) = owner {
                owner.promote(&mut |bytes| Arc::strong_count(&owner) > 1 && self.take(bytes));
            }
            self.state().done += 1;
            self.changed.notify_all();
        }
    }
}

impl Promoter {
    /// One that moves up to `budget` bytes.
    pub(crate) fn new(budget: u64) -> Promoter {
        let state = State { left: budget, owners: Vec::new(), done: 0, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        Promoter { shared, thread: Mutex::new(None) }
    }

    /// Has an owner moved, once, and returns at once.
    pub(crate) fn promote(&self, owner: &Arc<dyn ByteOwner>) {
        let mut state = self.shared.state();
        let known = |it: &Weak<dyn ByteOwner>| std::ptr::addr_eq(it.as_ptr(), Arc::as_ptr(owner));
        if state.left == 0 || state.owners.iter().any(known) {
            return;
        }
        state.owners.push(Arc::downgrade(owner));
        drop(state);
        self.shared.changed.notify_all();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let spawned = Builder::new().name("hadal-pages".into()).spawn(move || shared.work());
            *thread = spawned.ok();
        }
    }

    /// Waits until nothing is left to do.
    pub(crate) fn settle(&self) {
        if self.thread.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            drop(self.shared.wait(|state| state.done < state.owners.len()));
        }
    }
}

impl Drop for Promoter {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would move four pieces of 100 bytes; counts them.
    struct Pieces(Mutex<Vec<u64>>);

    impl ByteOwner for Pieces {
        fn bytes(&self) -> &[u8] {
            &[]
        }

        fn promote(&self, go_on: &mut dyn FnMut(u64) -> bool) -> u64 {
            let moved = (0..4).take_while(|_| go_on(100)).count() as u64;
            self.0.lock().unwrap().push(moved);
            moved
        }
    }

    #[test]
    fn every_owner_is_moved_once_until_the_budget_is_spent() {
        let promoter = Promoter::new(650);
        promoter.settle();
        let pieces: Vec<_> = (0..3).map(|_| Arc::new(Pieces(Mutex::default()))).collect();
        let owners: Vec<Arc<dyn ByteOwner>> = pieces.iter().map(|it| Arc::clone(it) as _).collect();
        for _ in 0..2 {
            owners.iter().for_each(|owner| promoter.promote(owner));
            promoter.settle();
        }
        let moved: Vec<_> = pieces.iter().map(|it| it.0.lock().unwrap().clone()).collect();
        assert_eq!(moved, [vec![4], vec![2], vec![0]]);
    }

    #[test]
    fn an_owner_that_nobody_else_keeps_is_not_moved() {
        let promoter = Promoter::new(650);
        let owner: Arc<dyn ByteOwner> = Arc::new(Pieces(Mutex::default()));
        let weak = Arc::downgrade(&owner);
        promoter.promote(&owner);
        drop(owner);
        promoter.settle();
        assert_eq!(weak.strong_count(), 0);
        drop(promoter);
    }
}
