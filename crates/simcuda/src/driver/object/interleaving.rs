//! The order that a run gives to work that the program left unordered.

use std::sync::Mutex;

use crate::driver::registry::lock;
use crate::driver::settings::Order;

/// Chooses among what may run, as the setting asks.
pub(crate) struct Interleaving {
    pub(crate) order: Order,
    random: Mutex<Random>,
}

impl Interleaving {
    pub(crate) fn new(order: Order) -> Self {
        let seed = if let Order::Seeded(seed) = order { seed } else { 0 };
        Self { order, random: Mutex::new(Random(seed)) }
    }

    /// Chooses which of `count` ready graph nodes runs next: 0 is the oldest.
    pub(crate) fn choose(&self, count: usize) -> usize {
        match self.order {
            Order::Eager => 0,
            Order::Lazy => count - 1,
            Order::Seeded(_) => self.below(count),
        }
    }

    /// Draws a number below `bound`.
    pub(crate) fn below(&self, bound: usize) -> usize {
        lock(&self.random).below(bound)
    }
}

/// A small generator (splitmix64): the same seed gives the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}
