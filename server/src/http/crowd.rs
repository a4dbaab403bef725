//! All connections: at most so many, and where one more comes, the one that has been idle longest gives
//! way. So no number of idle connections keeps a request out; where all are being answered, it waits.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::pace::Pace;

/// How often somebody is asked while nobody has left: who was asked may have been busy just then.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The connections there are.
#[derive(Debug)]
pub struct Crowd {
    places: Arc<Semaphore>,
    turns: Arc<AtomicU64>,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    came: u64,
    there: HashMap<u64, Arc<Pace>>,
}

/// A connection's place; it is free when this is dropped.
#[derive(Debug)]
pub struct Member {
    pace: Arc<Pace>,
    id: u64,
    crowd: Arc<Crowd>,
    _place: OwnedSemaphorePermit,
}

impl Member {
    /// Where it stands.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.members().there.remove(&self.id);
    }
}

impl Crowd {
    /// Nobody yet, and at most `most`.
    pub fn new(most: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Crowd { places, turns: Arc::default(), members: Mutex::default() })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more, as soon as there is a place or somebody idle gives one up.
    pub async fn join(self: &Arc<Self>) -> Member {
        let place = self.place().await;
        let pace = Arc::new(Pace::new(&self.turns));
        let mut members = self.members();
        members.came += 1;
        let id = members.came;
        members.there.insert(id, Arc::clone(&pace));
        Member { pace, id, crowd: Arc::clone(self), _place: place }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            let places = Arc::clone(&self.places);
            if let Ok(place) = places.clone().try_acquire_owned() {
                return place;
            }
            self.ask_one_to_leave();
            if let Ok(Ok(place)) = timeout(ASK_AGAIN, places.acquire_owned()).await {
                return place;
            }
        }
    }

    /// Asks the one that has been idle longest, if anybody is idle.
    fn ask_one_to_leave(&self) {
        let members = self.members();
        let idle = members.there.values().filter_map(|pace| Some((pace.idle_since()?, pace)));
        if let Some((_, pace)) = idle.min_by_key(|(since, _)| *since) {
            pace.ask_to_leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that leaves when it must.
    fn sit(member: Member) -> tokio::task::JoinHandle<u64> {
        tokio::spawn(async move {
            member.pace().must_leave().await;
            member.id
        })
    }

    #[tokio::test]
    async fn who_has_been_idle_longest_gives_way() {
        let crowd = Crowd::new(3);
        let first = crowd.join().await;
        let busy = first.pace().begin();
        let first = sit(first);
        let second = sit(crowd.join().await);
        let third = crowd.join().await;
        let third_pace = Arc::clone(third.pace());
        let third = sit(third);
        let fourth = crowd.join().await;
        assert_eq!(second.await.expect("it left"), 2, "the first is busy, the third came later");
        drop(busy);
        drop(third_pace.begin());
        drop(fourth.pace().begin());
        let _fifth = crowd.join().await;
        assert_eq!(first.await.expect("it left"), 1, "it became idle before the third did again");
        assert!(!third.is_finished());
        third.abort();
    }

    #[tokio::test]
    async fn nobody_who_is_answered_gives_way() {
        let crowd = Crowd::new(1);
        let only = crowd.join().await;
        let busy = only.pace().begin();
        let only = sit(only);
        assert!(timeout(2 * ASK_AGAIN, crowd.join()).await.is_err(), "there is no place");
        assert!(!only.is_finished());
        drop(busy);
        let _next = crowd.join().await;
        only.await.expect("it left");
    }
}
