//! Sequences: a slot, a position, the lowest position it can be taken back to, and pages.
//!
//! The bytes of a sequence are the ring rows of its slot and its pages; which of them are valid
//! follows from the position alone (docs/program.md, "The state object"). A sequence gives its slot
//! and pages back when it is dropped.

use std::sync::{Arc, Mutex, MutexGuard};

use super::geometry::Capacity;
use crate::limits::{PAGE_TOKENS, ROLLBACK};

/// Slots and pages nobody has. Pages are counted: a finished page may belong to several sequences.
#[derive(Debug)]
pub struct Pool {
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    slots: Vec<u32>,
    pages: Vec<u32>,
    /// Owners of every page.
    owners: Vec<u32>,
}

impl Pool {
    /// All slots and pages free.
    pub fn new(capacity: &Capacity) -> Arc<Self> {
        let free = Free {
            slots: (0..capacity.slots).rev().collect(),
            pages: (0..capacity.pages).rev().collect(),
            owners: vec![0; capacity.pages as usize],
        };
        Arc::new(Pool { free: Mutex::new(free) })
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Free slots and free pages.
    pub fn available(&self) -> (u32, u32) {
        let free = self.lock();
        (free.slots.len() as u32, free.pages.len() as u32)
    }

    /// A new sequence at position 0, if a slot is free. It never has more than `pages_max` pages.
    pub fn open(self: &Arc<Self>, pages_max: u32) -> Option<Sequence> {
        let slot = self.lock().slots.pop()?;
        Some(Sequence {
            pool: Arc::clone(self),
            slot,
            position: 0,
            floor: 0,
            pages: Vec::with_capacity(pages_max as usize),
            pages_max,
        })
    }
}

/// The reusable state of one conversation, as one object.
#[derive(Debug)]
pub struct Sequence {
    pool: Arc<Pool>,
    slot: u32,
    position: u32,
    floor: u32,
    pages: Vec<u32>,
    pages_max: u32,
}

impl Sequence {
    /// Tokens fed so far; the next token's position.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Lowest position it can be taken back to: rings forget, and a restored state has no past.
    pub fn floor(&self) -> u32 {
        self.floor
    }

    /// Tokens it can hold.
    pub fn capacity(&self) -> u32 {
        self.pages_max * PAGE_TOKENS
    }

    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }

    pub(crate) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Takes pages until `tokens` fit; false, with nothing taken, if there are not enough.
    pub(crate) fn reserve(&mut self, tokens: u32) -> bool {
        let wanted = tokens.div_ceil(PAGE_TOKENS);
        let Some(missing) = wanted.checked_sub(self.pages.len() as u32) else { return true };
        let mut free = self.pool.lock();
        if wanted > self.pages_max || (free.pages.len() as u32) < missing {
            return false;
        }
        for _ in 0..missing {
            let page = free.pages.pop().expect("counted above");
            free.owners[page as usize] = 1;
            self.pages.push(page);
        }
        true
    }

    /// The first `count` pages of `other`, from now on owned by both.
    pub(crate) fn share_pages(&mut self, other: &Sequence, count: usize) {
        assert!(self.pages.is_empty(), "pages are shared into a new sequence");
        let mut free = self.pool.lock();
        for &page in &other.pages[..count] {
            free.owners[page as usize] += 1;
            self.pages.push(page);
        }
    }

    /// `tokens` more were fed.
    pub(crate) fn advance(&mut self, tokens: u32) {
        self.position += tokens;
        self.floor = self.floor.max(self.position.saturating_sub(ROLLBACK));
    }

    /// A restored state: nothing below `position` can be rolled back to.
    pub(crate) fn place_at(&mut self, position: u32) {
        self.position = position;
        self.floor = position;
    }

    /// Takes the last `tokens` tokens back. No device work: what lies beyond the position cannot be
    /// named any more, and is overwritten when its positions come again.
    ///
    /// Returns false, and changes nothing, if that is below [`Sequence::floor`].
    #[must_use]
    pub fn roll_back(&mut self, tokens: u32) -> bool {
        match self.position.checked_sub(tokens) {
            Some(position) if position >= self.floor => {
                self.position = position;
                true
            }
            _ => false,
        }
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let mut free = self.pool.lock();
        free.slots.push(self.slot);
        for &page in self.pages.iter().rev() {
            free.owners[page as usize] -= 1;
            if free.owners[page as usize] == 0 {
                free.pages.push(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Arc<Pool> {
        Pool::new(&Capacity { slots: 2, pages: 5, sequence_pages: 4, rows: 8 })
    }

    #[test]
    fn floor_follows_the_highest_position_and_not_the_last_roll_back() {
        let pool = pool();
        let mut sequence = pool.open(4).unwrap();
        sequence.advance(100);
        assert_eq!(sequence.floor(), 92);
        assert!(sequence.roll_back(5));
        assert!(!sequence.roll_back(4), "two roll-backs must not reach below what the rings hold");
        assert!(sequence.roll_back(3));
        sequence.advance(1);
        assert_eq!((sequence.position(), sequence.floor()), (93, 92));
    }

    #[test]
    fn pages_and_slots_come_back_when_the_last_owner_goes() {
        let pool = pool();
        let mut first = pool.open(4).unwrap();
        assert!(first.reserve(3 * PAGE_TOKENS));
        let mut second = pool.open(4).unwrap();
        assert!(pool.open(4).is_none());
        second.share_pages(&first, 2);
        assert!(!second.reserve(5 * PAGE_TOKENS), "more than a sequence may have");
        assert_eq!(pool.available(), (0, 2));
        drop(first);
        assert_eq!(pool.available(), (1, 3));
        drop(second);
        assert_eq!(pool.available(), (2, 5));
    }
}
