//! A page of a list that goes over many ranges.
//!
//! It decides which ranges are asked and what of their answers is in the page. It sends nothing and
//! waits for nothing: its owner asks the ranges of a [`round`](Listing::round), hands in what they
//! say in their order, and may end the page whenever it has waited for long enough.
//!
//! A range answers for an interval of names: from the name that it was asked for to the last that it
//! gives, or to its end as it was at that moment. The page is put together of such intervals, each
//! of which begins where the one before it ends, so no name can be missed or come twice, whatever
//! splits meanwhile. What was asked where the ranges were believed to begin, and does not join on, is
//! dropped.

use prost::Message as _;
use sharklock_proto::{
    internal::v1::{ListRange, RangeLocks},
    v1::ListLocksResponse,
};

use crate::{failure::Failure, page_token, port::bad_answer, validate::PAGE_MAX};

pub use crate::walk::{AT_ONCE_MAX, PAGE_BYTES_MAX, RANGES_MAX};

/// See the module.
///
/// Invariants:
/// - `page` has what the ranges had of the list from its beginning up to `from`, each lock once, in
///   byte order of their names;
/// - `from` begins with `prefix`, and only grows.
#[derive(Clone, Debug)]
pub struct Listing {
    prefix: String,
    /// None: the list ends with this page.
    from: Option<String>,
    locks_left: usize,
    bytes_left: usize,
    ranges_left: usize,
    /// Ranges that the next round asks.
    width: usize,
    page: ListLocksResponse,
}

impl Listing {
    /// A page of at most so many of the locks that begin with `prefix`, from `from` on.
    pub(crate) fn new(prefix: String, from: String, locks_max: u32) -> Self {
        Self {
            prefix,
            from: Some(from),
            locks_left: locks_max.min(PAGE_MAX) as usize,
            bytes_left: PAGE_BYTES_MAX,
            ranges_left: RANGES_MAX,
            width: 1,
            page: ListLocksResponse::default(),
        }
    }

    /// What to ask next, in order of names, all at once; nothing once the page is complete.
    /// `behind` says where the ranges begin that follow the one of a name, at most so many.
    pub fn round(&mut self, behind: impl FnOnce(&str, usize) -> Vec<String>) -> Vec<ListRange> {
        let Some(from) = self.from.as_ref().filter(|_| self.has_room()) else { return Vec::new() };
        let width = self.width.min(self.ranges_left);
        if width == 0 {
            return Vec::new();
        }
        let starts = if width > 1 { behind(from, width - 1) } else { Vec::new() };
        let is_listed = |start: &String| start.starts_with(&self.prefix);
        let mut starts: Vec<_> = starts.into_iter().take_while(is_listed).collect();
        starts.insert(0, from.clone());
        starts.truncate(width);
        self.ranges_left -= starts.len();
        self.width = (2 * self.width).min(AT_ONCE_MAX);
        // Together they take no more memory than one page.
        let bytes_max = (self.bytes_left / starts.len()) as u32;
        let locks_max = self.locks_left as u32;
        let question = |from| ListRange { prefix: self.prefix.clone(), from, locks_max, bytes_max };
        starts.into_iter().map(question).collect()
    }

    /// The answer to a question of the last round. False: it does not join on to what the page has,
    /// or has no room in it, and nor has anything behind it.
    ///
    /// # Errors
    /// It is no answer to the question.
    pub fn take(&mut self, asked: &ListRange, part: RangeLocks) -> Result<bool, Failure> {
        if self.from.as_ref() != Some(&asked.from) || !self.has_room() {
            return Ok(false);
        }
        if !answers(asked, &part) {
            return Err(bad_answer());
        }
        let RangeLocks { position, mut locks, mut has_more, end } = part;
        // Others of its round have taken some of the room that it was offered.
        has_more |= locks.len() > self.locks_left;
        locks.truncate(self.locks_left);
        self.from = match locks.last() {
            Some(last) if has_more => Some(behind_name(&last.name)),
            // Names with the prefix lie side by side: if the next range begins with another, they end.
            _ => (!end.is_empty() && end.starts_with(&self.prefix)).then_some(end),
        };
        let bytes = locks.iter().map(|lock| lock.encoded_len()).sum();
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.locks_left -= locks.len();
        self.page.locks.extend(locks);
        self.page.positions.extend(position);
        Ok(true)
    }

    /// The page as it is. It may have fewer locks than were asked for, and there is more then if it
    /// has a token.
    pub fn into_page(self) -> ListLocksResponse {
        let token = self.from.map(|from| page_token::encode(&self.prefix, &from));
        ListLocksResponse { next_page_token: token.unwrap_or_default(), ..self.page }
    }

    fn has_room(&self) -> bool {
        self.locks_left > 0 && self.bytes_left > 0
    }
}

/// The first name behind this one: a name has no control characters, but this need not be one.
pub(crate) fn behind_name(name: &str) -> String {
    format!("{name}\0")
}

/// Whether this can be an answer to the question: what it says would make the list wrong otherwise.
fn answers(asked: &ListRange, part: &RangeLocks) -> bool {
    let ListRange { prefix, from, locks_max, .. } = asked;
    let RangeLocks { locks, has_more, end, .. } = part;
    let is_inside = |name: &str| {
        name >= from.as_str() && name.starts_with(prefix) && (end.is_empty() || name < end.as_str())
    };
    let names = locks.iter().map(|lock| lock.name.as_str());
    names.clone().all(is_inside)
        && names.is_sorted_by(|a, b| a < b)
        && locks.len() <= *locks_max as usize
        && (end.is_empty() || end > from)
        && (!has_more || !locks.is_empty())
}

#[cfg(test)]
mod tests;
