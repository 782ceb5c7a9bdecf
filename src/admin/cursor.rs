//! An answer in progress: which rows of a table are still to come.
//!
//! Long answers are made a part at a time, so that nobody else waits for them and a client that reads slowly holds no more than
//! one part. Rows that are sorted are gathered first: their places, and what they are sorted by.

use super::filter::Filter;
use super::table::{Column, Row, Table, Value};
use crate::engine::Engine;

/// Places that are looked at in one part.
const PLACES_PER_PART: usize = 128;
/// Rows of one part.
const ROWS_PER_PART: usize = 32;

/// What is left of an answer.
pub(super) struct Cursor {
    table: Box<dyn Table>,
    columns: Vec<Column>,
    filter: Filter,
    stage: Stage,
    /// Rows that may still come.
    left: u64,
}

enum Stage {
    /// Rows come in the order of their places, from this one on.
    Walking(u64),
    /// Rows are being gathered, from this place on.
    Gathering(u64, Vec<(Vec<Value>, u64)>),
    /// The places of the rows, the next one last.
    Giving(Vec<u64>),
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More may come.
    More,
    /// That was all.
    Done,
}

impl Cursor {
    pub(super) fn new(table: Box<dyn Table>, columns: Vec<Column>, mut filter: Filter) -> Cursor {
        if filter.order.is_empty() {
            filter.order = (0..table.sorted_by())
                .map(|column| (column, false))
                .collect();
        }
        let left = filter.limit.unwrap_or(u64::MAX);
        let stage = match filter.order[..] {
            [] => Stage::Walking(0),
            _ => Stage::Gathering(0, Vec::new()),
        };
        Cursor {
            table,
            columns,
            filter,
            stage,
            left,
        }
    }

    /// Its columns.
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Gives the next rows, at most so many.
    pub(super) fn part(
        &mut self,
        engine: &Engine,
        most: u64,
        give: &mut dyn FnMut(&dyn Row),
    ) -> Progress {
        let mut room = most.min(ROWS_PER_PART as u64);
        for _ in 0..PLACES_PER_PART {
            if self.left == 0 {
                return Progress::Done;
            }
            if room == 0 {
                return Progress::More;
            }
            let place = match &mut self.stage {
                Stage::Gathering(from, _) => {
                    let from = *from;
                    self.gather(engine, from);
                    continue;
                }
                Stage::Walking(from) => self.table.place(engine, *from).inspect(|place| {
                    *from = place + 1;
                }),
                Stage::Giving(places) => places.pop(),
            };
            let Some(place) = place else {
                return Progress::Done;
            };
            // It may have gone in the meantime, or be another one.
            if let Some(row) = self.table.row(engine, place)
                && self.filter.accepts(&*row)
            {
                give(&*row);
                room -= 1;
                self.left -= 1;
            }
        }
        Progress::More
    }

    /// One more row is gathered, or all are there.
    fn gather(&mut self, engine: &Engine, from: u64) {
        let place = self.table.place(engine, from);
        let Stage::Gathering(next, found) = &mut self.stage else {
            return;
        };
        if let Some(place) = place {
            *next = place + 1;
            if let Some(row) = self.table.row(engine, place)
                && self.filter.accepts(&*row)
            {
                found.push((self.filter.sort_key(&*row), place));
            }
        }
        // Of those that are too many, the last are forgotten from time to time.
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let too_many = found.len() > wanted.saturating_mul(2).saturating_add(PLACES_PER_PART);
        if place.is_none() || too_many {
            let filter = &self.filter;
            found.sort_by(|(a, at), (b, other)| filter.compare(a, b).then(at.cmp(other)));
            found.truncate(wanted);
        }
        if place.is_none() {
            let places = found.iter().rev().map(|(_, place)| *place).collect();
            self.stage = Stage::Giving(places);
        }
    }
}
