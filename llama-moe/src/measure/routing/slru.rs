//! The segmented LRU by which llama.cpp chooses the experts that stay in a cache.
//!
//! Every slot is in one of two lists, each in the order of use. A new expert enters the probation
//! list; a hit moves it to the protected list. The protected list keeps at most half of the slots,
//! and its oldest expert goes back to probation. The oldest expert on probation is evicted first,
//! then the oldest protected one, but never an expert of the request that needs the room.

/// No slot.
const NONE: u32 = u32::MAX;

/// A cache of the experts of several layers.
pub(super) struct Slru {
    n_expert: usize,
    slots: Vec<Slot>,
    /// The slot of each expert of each layer, or [`NONE`].
    slot_of: Vec<u32>,
    probation: List,
    protected: List,
    /// The request that last asked for each expert.
    asked: Vec<u64>,
    request: u64,
    /// The request's experts, each once.
    wanted: Vec<u16>,
}

struct Slot {
    /// The place in `slot_of` of the expert that it holds.
    holds: Option<usize>,
    older: u32,
    newer: u32,
    is_protected: bool,
}

/// The ends of a list of slots, in the order of use.
#[derive(Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
    len: usize,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) hits: u64,
    pub(super) misses: u64,
}

impl Slru {
    /// A cache with empty slots. There is at least one, and fewer than 2^32 - 1.
    pub(super) fn new(n_layers: usize, n_expert: usize, n_slots: u32) -> Self {
        let empty = List {
            oldest: NONE,
            newest: NONE,
            len: 0,
        };
        let mut cache = Self {
            n_expert,
            slots: Vec::with_capacity(n_slots as usize),
            slot_of: vec![NONE; n_layers * n_expert],
            probation: empty,
            protected: empty,
            asked: vec![0; n_expert],
            request: 0,
            wanted: Vec::new(),
        };
        for slot in 0..n_slots {
            cache.slots.push(Slot {
                holds: None,
                older: NONE,
                newer: NONE,
                is_protected: false,
            });
            cache.append(slot, false);
        }
        cache
    }

    /// Gives a slot to each expert that a micro-batch selects in a layer of this index.
    ///
    /// The experts must exist and fit into the slots.
    pub(super) fn request(&mut self, layer: usize, experts: &[u16]) -> Outcome {
        self.request += 1;
        self.wanted.clear();
        for &expert in experts {
            let asked = &mut self.asked[expert as usize];
            if *asked != self.request {
                *asked = self.request;
                self.wanted.push(expert);
            }
        }
        let mut outcome = Outcome::default();
        let mut missing = std::mem::take(&mut self.wanted);
        // Hits are promoted before room is made, in the order in which they were selected.
        missing.retain(|&expert| {
            let slot = self.slot_of[layer * self.n_expert + expert as usize];
            if slot == NONE {
                return true;
            }
            self.promote(slot);
            outcome.hits += 1;
            false
        });
        missing.sort_unstable();
        for &expert in &missing {
            // A request is never larger than the cache.
            if let Some(slot) = self.victim(layer) {
                self.fill(slot, layer * self.n_expert + expert as usize);
            }
            outcome.misses += 1;
        }
        self.wanted = missing;
        outcome
    }

    fn promote(&mut self, slot: u32) {
        self.unlink(slot);
        self.append(slot, true);
        if self.protected.len > self.slots.len() / 2 {
            let oldest = self.protected.oldest;
            self.unlink(oldest);
            self.append(oldest, false);
        }
    }

    fn fill(&mut self, slot: u32, key: usize) {
        if let Some(evicted) = self.slots[slot as usize].holds.replace(key) {
            self.slot_of[evicted] = NONE;
        }
        self.slot_of[key] = slot;
        self.unlink(slot);
        self.append(slot, false);
    }

    /// The slot whose expert goes next: no expert of the present request.
    fn victim(&self, layer: usize) -> Option<u32> {
        let is_free = |slot: &u32| match self.slots[*slot as usize].holds {
            None => true,
            Some(key) => {
                key / self.n_expert != layer || self.asked[key % self.n_expert] != self.request
            }
        };
        let mut from_oldest = self.walk(self.probation).chain(self.walk(self.protected));
        from_oldest.find(is_free)
    }

    /// The slots of a list, oldest first.
    fn walk(&self, list: List) -> impl Iterator<Item = u32> + '_ {
        let present = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(present(list.oldest), move |&slot| {
            present(self.slots[slot as usize].newer)
        })
    }

    fn list(&mut self, protected: bool) -> &mut List {
        if protected {
            &mut self.protected
        } else {
            &mut self.probation
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Slot {
            older,
            newer,
            is_protected,
            ..
        } = self.slots[slot as usize];
        match older {
            NONE => self.list(is_protected).oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.list(is_protected).newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        self.list(is_protected).len -= 1;
    }

    /// Makes a slot the newest of a list.
    fn append(&mut self, slot: u32, protected: bool) {
        let list = self.list(protected);
        let older = std::mem::replace(&mut list.newest, slot);
        list.len += 1;
        match older {
            NONE => list.oldest = slot,
            older => self.slots[older as usize].newer = slot,
        }
        let slot = &mut self.slots[slot as usize];
        (slot.older, slot.newer, slot.is_protected) = (older, NONE, protected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(hits: u64, misses: u64) -> Outcome {
        Outcome { hits, misses }
    }

    /// The experts of layer 0 that are in the cache.
    fn cached(cache: &Slru) -> Vec<usize> {
        (0..cache.n_expert)
            .filter(|&expert| cache.slot_of[expert] != NONE)
            .collect()
    }

    #[test]
    fn an_expert_that_was_hit_outlives_newer_ones() {
        let mut cache = Slru::new(1, 8, 4);
        assert_eq!(cache.request(0, &[0]), outcome(0, 1));
        assert_eq!(cache.request(0, &[0]), outcome(1, 0));
        for expert in 1..8 {
            assert_eq!(cache.request(0, &[expert]), outcome(0, 1));
        }
        assert_eq!(cached(&cache), [0, 5, 6, 7]);
    }

    #[test]
    fn at_most_half_of_the_slots_are_protected() {
        let mut cache = Slru::new(1, 8, 4);
        cache.request(0, &[0, 1, 2, 3]);
        // 0 and 1 go back to probation, 0 first.
        assert_eq!(cache.request(0, &[0, 1, 2, 3]), outcome(4, 0));
        assert_eq!((cache.protected.len, cache.probation.len), (2, 2));
        cache.request(0, &[4]);
        assert_eq!(cached(&cache), [1, 2, 3, 4]);
    }

    #[test]
    fn a_request_does_not_evict_its_own_experts() {
        let mut cache = Slru::new(1, 8, 2);
        cache.request(0, &[3, 5]);
        assert_eq!(cache.request(0, &[7, 3]), outcome(1, 1));
        assert_eq!(cached(&cache), [3, 7]);
        // An expert that several tokens take is counted once.
        assert_eq!(cache.request(0, &[7, 3, 3, 7]), outcome(2, 0));
    }

    #[test]
    fn missing_experts_enter_in_ascending_order() {
        let mut cache = Slru::new(1, 8, 3);
        cache.request(0, &[6, 2, 4]);
        cache.request(0, &[7]);
        assert_eq!(cached(&cache), [4, 6, 7]);
    }

    #[test]
    fn layers_share_the_slots() {
        let mut cache = Slru::new(2, 4, 2);
        assert_eq!(cache.request(0, &[1, 2]), outcome(0, 2));
        assert_eq!(cache.request(1, &[1, 2]), outcome(0, 2));
        assert_eq!(cache.request(0, &[1, 2]), outcome(0, 2));
    }

    #[test]
    fn one_slot_is_a_cache_too() {
        let mut cache = Slru::new(1, 4, 1);
        assert_eq!(cache.request(0, &[1]), outcome(0, 1));
        assert_eq!(cache.request(0, &[1]), outcome(1, 0));
        assert_eq!(cache.request(0, &[2]), outcome(0, 1));
        assert_eq!(cache.request(0, &[1]), outcome(0, 1));
    }
}
