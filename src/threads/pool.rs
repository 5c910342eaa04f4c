//! An engine's own threads.

use super::{IN_TEAM, Padded};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads of an engine's own, which run the phases of a call in place of threads that moray starts
/// ([`Cpu::on`](crate::Cpu::on)).
///
/// A phase is handed out in pieces to whoever calls `job`; each call takes pieces until there are none, and writes only the
/// outputs of those. So results have the same bits however many threads come, and whenever.
///
/// # Example
/// ```
/// use moray::threads::Pool;
/// use moray::{Cpu, Isa};
///
/// /// Two threads, started anew for each phase; an engine has better ones.
/// struct Scoped;
///
/// impl Pool for Scoped {
///     fn threads(&self) -> usize {
///         2
///     }
///
///     fn run(&self, job: &(dyn Fn() + Sync)) {
///         std::thread::scope(|scope| {
///             scope.spawn(job);
///             job();
///         });
///     }
/// }
///
/// let cpu = Cpu::on(Scoped, Isa::detect())?;
/// assert_eq!(cpu.threads(), 2);
/// # Ok::<(), moray::Error>(())
/// ```
pub trait Pool: Send + Sync {
    /// How many threads may call a job at once: 1 to 4096. Asked once.
    fn threads(&self) -> usize;

    /// Calls `job` on as many threads as are free, the calling one among them or not, and returns when every call has returned.
    /// A panic of `job` is the caller's to have.
    fn run(&self, job: &(dyn Fn() + Sync));
}

/// Runs `job(member)` for different members below `threads` on a pool: for all of them, or for fewer of which each has returned.
pub(super) fn enter(pool: &dyn Pool, threads: usize, job: impl Fn(usize) + Sync) {
    let next = Padded(AtomicUsize::new(0));
    let call = || {
        // numbers are given out here, so that none is given twice whatever the pool does
        let member = next.0.fetch_add(1, Ordering::Relaxed);
        if member < threads {
            let _inside = Inside::enter();
            job(member);
        }
    };
    pool.run(&call);
    // for a pool that came with nobody
    call();
}

/// While it lives, calls on this thread run on it alone.
struct Inside(bool);

impl Inside {
    fn enter() -> Self {
        Inside(IN_TEAM.replace(true))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IN_TEAM.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use crate::threads::Team;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Calls a job so many times, from as many threads.
    struct Calls(usize);

    impl Pool for Calls {
        fn threads(&self) -> usize {
            3
        }

        fn run(&self, job: &(dyn Fn() + Sync)) {
            std::thread::scope(|scope| (0..self.0).for_each(|_| _ = scope.spawn(job)));
        }
    }

    #[test]
    fn every_range_is_visited_once_however_many_threads_come() {
        for calls in [0, 1, 2, 3, 7] {
            let team = Team::on(Calls(calls));
            assert_eq!(team.len(), 3);
            for total in [0, 1, 64, 1001] {
                let seen: Vec<_> = (0..total).map(|_| AtomicUsize::new(0)).collect();
                team.for_ranges(total, 3, |range| {
                    seen[range].iter().for_each(|n| _ = n.fetch_add(1, Ordering::Relaxed));
                    // a call from inside runs on this thread alone
                    team.for_ranges(8, 1, |_| ());
                });
                assert!(seen.into_iter().all(|n| n.into_inner() == 1), "{calls} calls, total {total}");
            }
            let members = [const { AtomicUsize::new(0) }; 3];
            team.run(|member| _ = members[member].fetch_add(1, Ordering::Relaxed));
            assert!(members.into_iter().all(|n| n.into_inner() == 1), "{calls} calls");
        }
    }

    #[test]
    fn panic_of_a_job_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::on(Calls(2));
        let run = || team.for_ranges(100, 1, |range| assert!(range.start != 50));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        let count = AtomicUsize::new(0);
        team.for_ranges(100, 1, |range| _ = count.fetch_add(range.len(), Ordering::Relaxed));
        assert_eq!(count.into_inner(), 100);
    }
}
