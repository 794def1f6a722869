//! How much may be asked of a dashboard: by each person, or from each address where nobody is named. One who asks too
//! much takes nothing away from the others.

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;

/// Requests that look: a page that opens makes five, and many pages may be behind one address.
const LOOKS_PER_S: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const LOOKS_BURST: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");

/// Requests that change something.
const ORDERS_PER_S: NonZeroU32 = NonZeroU32::new(2).expect("not zero");
const ORDERS_BURST: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// Those who asked lately that are kept; then those who have been quiet are forgotten.
const KEPT_MAX: usize = 10_000;

/// The limits of one dashboard.
pub struct Limits {
    looks: DefaultKeyedRateLimiter<String>,
    orders: DefaultKeyedRateLimiter<String>,
}

impl Default for Limits {
    fn default() -> Self {
        let quota = |per_s, burst| Quota::per_second(per_s).allow_burst(burst);
        Self {
            looks: RateLimiter::keyed(quota(LOOKS_PER_S, LOOKS_BURST)),
            orders: RateLimiter::keyed(quota(ORDERS_PER_S, ORDERS_BURST)),
        }
    }
}

impl Limits {
    /// May they ask once more?
    #[must_use]
    pub(super) fn allow(&self, who: &str, changes: bool) -> bool {
        let measure = if changes { &self.orders } else { &self.looks };
        if measure.len() > KEPT_MAX {
            measure.retain_recent();
        }
        measure.check_key(&who.to_owned()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_too_much_is_refused_and_nobody_else_is() {
        let limits = Limits::default();
        let allowed = (0..ORDERS_BURST.get() * 2).filter(|_| limits.allow("192.0.2.1", true)).count();
        assert!(allowed < 2 * ORDERS_BURST.get() as usize, "{allowed} of them");
        assert!(limits.allow("192.0.2.2", true) && limits.allow("alice@example.com", true));
        assert!(limits.allow("192.0.2.1", false), "looking is measured apart");
    }
}
