//! What became of a file's rows, in bounded memory.

use std::collections::BTreeMap;

use super::{Fault, Problem, Row};

/// Rows in error that are told one by one; of the others the numbers are told.
pub const MOST_TOLD: usize = 1_000;

/// Adds up rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows that are contacts.
    pub contacts: u64,
    /// Rows in error, by what is wrong.
    pub faults: BTreeMap<Fault, u64>,
    /// The first [`MOST_TOLD`] rows in error.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Counts a row.
    pub fn add(&mut self, row: &Row) {
        match row {
            Ok(_) => self.contacts += 1,
            Err(problem) => {
                *self.faults.entry(problem.fault).or_default() += 1;
                if self.problems.len() < MOST_TOLD {
                    self.problems.push(problem.clone());
                }
            }
        }
    }

    /// Rows in error.
    pub fn rejected(&self) -> u64 {
        self.faults.values().sum()
    }
}
