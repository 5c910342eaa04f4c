//! Runs of K: where sums in f32 are cut, the same for every device, so that each may be summed by another block of threads.

use std::ops::Range;

/// Columns that a run is a whole number of, but for the last: as many as any kernel takes at a time, so that none needs half of
/// a step.
const STEP: usize = 256;

/// Columns that make a run worth its addition.
const LEAST: usize = 1024;

/// As many as let 64 tiles share 108 or 132 multiprocessors almost evenly.
pub(crate) const MOST_RUNS: usize = 8;

/// The runs of K columns, in order: R = ⌈K/1024⌉, at most 8, of which run r begins at 256 · ⌊r · ⌈K/256⌉ / R⌋.
pub(crate) fn runs(k: usize) -> impl Iterator<Item = Range<usize>> {
    let (steps, count) = (k.div_ceil(STEP), k.div_ceil(LEAST).clamp(1, MOST_RUNS));
    // most matrices have one run, for which nothing is divided
    let start = move |run: usize| match run {
        0 => 0,
        run if run == count => k,
        run => run * steps / count * STEP,
    };
    (0..count).map(move |run| start(run)..start(run + 1))
}

/// Where the run of a column ends; K past the last.
#[inline(never)] // called once in a thousand columns, of loops in many copies
pub(crate) fn run_end(k: usize, column: usize) -> usize {
    runs(k).map(|run| run.end).find(|&end| column < end).unwrap_or(k)
}

#[cfg(test)]
mod tests {
    use super::{LEAST, MOST_RUNS, STEP, run_end, runs};

    #[test]
    fn runs_cover_k_in_order_and_begin_at_whole_steps() {
        for k in (1..=150).map(|k32| 32 * k32).chain([1, 11_008, 14_336, 21_760, 28_672]) {
            let all: Vec<_> = runs(k).collect();
            assert_eq!(all.len(), k.div_ceil(LEAST).min(MOST_RUNS), "{k}");
            assert_eq!((all[0].start, all[all.len() - 1].end), (0, k), "{k}");
            assert!(all.windows(2).all(|two| two[0].end == two[1].start && two[1].start % STEP == 0), "{k}: {all:?}");
            assert!(all.len() == 1 || all.iter().all(|run| run.len() >= LEAST / 2), "{k}: {all:?}");
            for run in all {
                assert!([run.start, run.end - 1].into_iter().all(|column| run_end(k, column) == run.end), "{k}");
            }
        }
    }

    #[test]
    fn runs_of_some_sizes_are_these() {
        let starts = |k| runs(k).map(|run| run.start).collect::<Vec<_>>();
        assert_eq!(starts(1024), [0]);
        assert_eq!(starts(1056), [0, 512]);
        assert_eq!(starts(4096), [0, 1024, 2048, 3072]);
        assert_eq!(starts(21_760), [0, 2560, 5376, 7936, 10_752, 13_568, 16_128, 18_944]);
    }
}
