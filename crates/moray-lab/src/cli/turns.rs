//! Rows of a table measured in turn, so that what else the machine does falls on all of them alike.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// What was measured once in every round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its median.
    pub median: f64,
    /// Its lower quartile, by nearest rank.
    pub low: f64,
    /// Its upper quartile.
    pub high: f64,
}

impl Figure {
    /// The figure of some values, none of none.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let median = (values[last / 2] + values[last.div_ceil(2)]) / 2.0;
        Some(Self { median, low: values[last / 4], high: values[last - last / 4] })
    }

    /// On which side of a value it lies, if the rounds agree: three quarters of them are on that side.
    pub fn beside(self, value: f64) -> Ordering {
        match (self.low > value, self.high < value) {
            (true, _) => Ordering::Greater,
            (_, true) => Ordering::Less,
            _ => Ordering::Equal,
        }
    }
}

/// What a row measures when its turn comes: a value for each column, none where it has none.
pub(super) type Turn<'a> = Box<dyn FnMut() -> Result<Vec<Option<f64>>> + 'a>;

/// The values of all turns, \[row\]\[round\]\[column\].
#[derive(Debug)]
pub(super) struct Rounds(Vec<Vec<Vec<Option<f64>>>>);

/// Gives each row its turn, `rounds` times; every other round goes backwards, so that no row always follows the same one.
///
/// # Errors
/// The first that a turn has.
pub(super) fn in_turn(rows: &mut [Turn<'_>], rounds: usize, mut tick: impl FnMut()) -> Result<Rounds> {
    let mut values = vec![Vec::with_capacity(rounds); rows.len()];
    for round in 0..rounds {
        for place in 0..rows.len() {
            let row = if round % 2 == 0 { place } else { rows.len() - 1 - place };
            values[row].push(rows[row]()?);
            tick();
        }
    }
    Ok(Rounds(values))
}

impl Rounds {
    /// A row's figure in a column.
    pub(super) fn figure(&self, row: usize, column: usize) -> Option<Figure> {
        Figure::of(self.0[row].iter().filter_map(|values| value(values, column)).collect())
    }

    /// A row's value over another's of the same round.
    pub(super) fn ratio(&self, row: usize, base: usize, column: usize) -> Option<Figure> {
        let both = self.0[row].iter().zip(&self.0[base]);
        Figure::of(both.filter_map(|(row, base)| Some(value(row, column)? / value(base, column)?)).collect())
    }
}

fn value(values: &[Option<f64>], column: usize) -> Option<f64> {
    values.get(column).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_match_the_quartiles_of_sorted_values() {
        let figure = |values: &[f64]| Figure::of(values.to_vec()).map(|f| (f.median, f.low, f.high));
        assert_eq!(figure(&[]), None);
        assert_eq!(figure(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(figure(&[4.0, 1.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(figure(&[5.0, 1.0, 9.0, 2.0, 4.0]), Some((4.0, 2.0, 5.0)));
        assert_eq!(figure(&[8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), Some((4.5, 2.0, 7.0)));
    }

    #[test]
    fn rows_take_turns_and_are_compared_round_by_round() {
        let order = std::cell::RefCell::new(Vec::new());
        // the machine slows down round by round, and both rows alike: row 1 is twice as fast throughout
        let turn = |row: usize| -> Turn<'_> {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(row);
                let round = order.borrow().iter().filter(|&&other| other == row).count() as f64;
                Ok(vec![Some((row + 1) as f64 / round), (row == 0).then_some(1.0)])
            })
        };
        let mut ticks = 0;
        let rounds = in_turn(&mut [turn(0), turn(1)], 3, || ticks += 1).unwrap();
        assert_eq!(*order.borrow(), [0, 1, 1, 0, 0, 1]);
        assert_eq!(ticks, 6);
        assert_eq!(rounds.figure(0, 0), Some(Figure { median: 0.5, low: 1.0 / 3.0, high: 1.0 }));
        assert_eq!(rounds.ratio(1, 0, 0), Some(Figure { median: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(rounds.figure(1, 1), None);
        assert_eq!(rounds.ratio(0, 1, 1), None);
        let beside = |low, high| Figure { median: 1.0, low, high }.beside(1.0);
        assert_eq!([beside(1.1, 1.2), beside(0.8, 0.9)], [Ordering::Greater, Ordering::Less]);
        assert_eq!([beside(0.9, 1.1), beside(1.0, 1.1), beside(0.9, 1.0)], [Ordering::Equal; 3]);
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut rows: [Turn<'_>; 1] =
            [Box::new(|| Err(moray::Error::Shape { what: "x", expected: "y", got: 0 }.into()))];
        assert!(in_turn(&mut rows, 2, || ()).is_err());
    }
}
