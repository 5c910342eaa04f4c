//! What is gained against what is lost.

/// A cell as a point of a front.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// How many times less is read, or how many times faster it is: more is better.
    pub gain: f64,
    /// Perplexity beyond the baseline's, in percent: less is better.
    pub loss: f64,
}

/// Says whether no other point gains as much for as little, one of both strictly.
pub fn is_on_front(points: &[Point], index: usize) -> bool {
    let Point { gain, loss } = points[index];
    let beats = |other: &Point| other.gain >= gain && other.loss <= loss && (other.gain > gain || other.loss < loss);
    !points.iter().any(beats)
}

/// The largest gain at which the line through the points, in the order of their gains and from nothing gained and nothing lost, has not
/// lost more than `loss`.
pub fn allowed_at(points: &[Point], loss: f64) -> f64 {
    let mut line = vec![Point { gain: 1.0, loss: 0.0 }];
    line.extend(points.iter().filter(|point| point.gain > 1.0));
    line.sort_by(|a, b| a.gain.total_cmp(&b.gain));
    let mut allowed: f64 = 1.0;
    for pair in line.windows(2) {
        let [from, to] = [pair[0], pair[1]];
        if to.loss <= loss {
            allowed = to.gain;
        } else if from.loss <= loss {
            allowed = from.gain + (to.gain - from.gain) * (loss - from.loss) / (to.loss - from.loss);
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(points: &[(f64, f64)]) -> Vec<Point> {
        points.iter().map(|&(gain, loss)| Point { gain, loss }).collect()
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let all = points(&[(1.0, 0.0), (1.2, 1.0), (1.2, 2.0), (1.5, 5.0), (1.4, 6.0), (1.5, 5.0)]);
        let found: Vec<bool> = (0..all.len()).map(|index| is_on_front(&all, index)).collect();
        assert_eq!(found, [true, true, false, true, false, true]);
    }

    #[test]
    fn gains_are_read_off_the_line_between_points() {
        let line = points(&[(1.6, 6.0), (1.2, 1.0), (1.4, 3.0)]);
        for (loss, gain) in [(0.0, 1.0), (0.5, 1.1), (1.0, 1.2), (2.0, 1.3), (4.5, 1.5), (6.0, 1.6), (9.0, 1.6)] {
            assert!((allowed_at(&line, loss) - gain).abs() < 1e-12, "{loss}: {}", allowed_at(&line, loss));
        }
        // a point better than the one before it counts, and one that gains nothing does not
        assert_eq!(allowed_at(&points(&[(1.1, 3.0), (1.3, 1.0), (0.9, 0.0)]), 2.0), 1.3);
        assert_eq!(allowed_at(&[], 2.0), 1.0);
    }
}
