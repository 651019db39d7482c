//! A walk through all names, range by range, of which a page is one stretch.
//!
//! It decides which ranges are asked, how much each may say, and where the next page goes on. It does
//! not know what they are asked: that is its owner's, which hands in where each answer ends.
//!
//! A range answers for an interval of names: from the name that it was asked for to its end as it was
//! at that moment. Each interval begins where the one before it ends, so no name can be missed,
//! whatever splits meanwhile. A range that has more to say than fits is asked again for the rest: its
//! order is its own, by names or by something else, and `after` is the last that it has told of.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::{failure::Failure, page_token};

/// Ranges that are asked for one page. More of them are left to the next page.
pub const RANGES_MAX: usize = 64;
/// Ranges that are asked at a time. A page begins with one, since that may fill it.
pub const AT_ONCE_MAX: usize = 8;
/// Bytes of rows in a page; the last row may reach beyond it.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Where a walk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// First name of which nothing was heard, or not all.
    pub from: String,
    /// Of the range of that name everything up to here was heard; empty: nothing was.
    pub after: Bytes,
}

/// What one range may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// From where.
    pub at: Place,
    /// Rows at most.
    pub rows_max: u32,
    /// Bytes of them at most.
    pub bytes_max: u32,
}

/// See the module.
///
/// Invariant: everything before `at` was heard.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Tells its tokens from those of other walks.
    of: String,
    /// None: it ends with this page.
    at: Option<Place>,
    rows_left: usize,
    bytes_left: usize,
    ranges_left: usize,
    width: usize,
    width_max: usize,
}

impl Walk {
    /// A page of at most so many rows. `of` names everything by which this walk differs from others;
    /// `page_token` is that of the page before, empty for the first.
    ///
    /// # Errors
    /// BAD_PAGE_TOKEN: it is none of this walk.
    pub fn new(of: String, page_token: &str, rows_max: u32) -> Result<Self, Failure> {
        let at = match page_token {
            "" => Place::default(),
            token => {
                let at = page_token::decode(&of, token)?;
                Place::read(&at).ok_or_else(page_token::none_of_this_list)?
            }
        };
        Ok(Self {
            of,
            at: Some(at),
            rows_left: rows_max as usize,
            bytes_left: PAGE_BYTES_MAX,
            ranges_left: RANGES_MAX,
            width: 1,
            width_max: AT_ONCE_MAX,
        })
    }

    /// The same, of which each step waits for the one before it: for what must not be done in vain.
    pub fn step_by_step(self) -> Self {
        Self { width_max: 1, ..self }
    }

    /// What to ask next, in order of names, all at once; nothing once the page is complete. `behind`
    /// says where the ranges begin that follow the one of a name, at most so many.
    pub fn round(&mut self, behind: impl FnOnce(&str, usize) -> Vec<String>) -> Vec<Step> {
        let Some(at) = self.at.clone().filter(|_| self.has_room()) else { return Vec::new() };
        let width = self.width.min(self.ranges_left).min(self.rows_left);
        if width == 0 {
            return Vec::new();
        }
        let starts = if width > 1 { behind(&at.from, width - 1) } else { Vec::new() };
        let starts = starts.into_iter().take(width - 1);
        let starts = starts.map(|from| Place { from, after: Bytes::new() });
        let places: Vec<_> = std::iter::once(at).chain(starts).collect();
        self.ranges_left -= places.len();
        self.width = (2 * self.width).min(self.width_max);
        // Together they fill no more than one page.
        let rows_max = (self.rows_left / places.len()) as u32;
        let bytes_max = (self.bytes_left / places.len()) as u32;
        places.into_iter().map(|at| Step { at, rows_max, bytes_max }).collect()
    }

    /// Whether what is said about this place joins on to what was heard, and has room.
    pub fn joins(&self, at: &Place) -> bool {
        self.at.as_ref() == Some(at) && self.has_room()
    }

    /// So much was heard, up to `to`: or to the end of all names.
    pub fn goes_to(&mut self, to: Option<Place>, rows: usize, bytes: usize) {
        self.at = to;
        self.rows_left = self.rows_left.saturating_sub(rows);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }

    /// The token of the next page; empty where there is none.
    pub fn token(&self) -> String {
        let token = |at: &Place| page_token::encode(&self.of, &at.written());
        self.at.as_ref().map(token).unwrap_or_default()
    }

    fn has_room(&self) -> bool {
        self.rows_left > 0 && self.bytes_left > 0
    }
}

impl Place {
    /// Behind a range that was asked for `from`, and whose answer says that it ends there. None: no
    /// range can have said so.
    pub fn behind(from: &str, end: String) -> Option<Option<Self>> {
        match end.as_str() {
            "" => Some(None),
            end_of_it if end_of_it > from => Some(Some(Self { from: end, after: Bytes::new() })),
            _ => None,
        }
    }

    fn written(&self) -> String {
        let mut text = String::new();
        for byte in &self.after {
            write!(text, "{byte:02x}").expect("a string takes all");
        }
        text.push('\n');
        text.push_str(&self.from);
        text
    }

    fn read(text: &str) -> Option<Self> {
        let (after, from) = text.split_once('\n')?;
        let digits = after.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let after = digits.map(byte).collect::<Option<Vec<_>>>()?.into();
        Some(Self { from: from.to_owned(), after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(rows_max: u32) -> Walk {
        Walk::new("x".to_owned(), "", rows_max).expect("the first page")
    }

    fn starts(from: &str, max: usize) -> Vec<String> {
        let all = ["b", "c", "d", "e", "f"].into_iter().filter(|start| *start > from);
        all.take(max).map(str::to_owned).collect()
    }

    fn round(walk: &mut Walk) -> (String, Option<(u32, u32)>) {
        let steps = walk.round(starts);
        let places: Vec<_> = steps.iter().map(|step| step.at.from.as_str()).collect();
        (places.join(" "), steps.first().map(|step| (step.rows_max, step.bytes_max)))
    }

    fn to(from: &str) -> Option<Place> {
        Place::behind("", from.to_owned()).expect("it is behind")
    }

    #[test]
    fn it_begins_with_one_range_and_shares_what_is_left_among_more() {
        let mut walk = walk(100);
        assert_eq!(round(&mut walk), (String::new(), Some((100, 1 << 20))));
        walk.goes_to(to("b"), 40, 1 << 19);
        assert_eq!(round(&mut walk), ("b c".to_owned(), Some((30, 1 << 18))));
        walk.goes_to(to("c"), 30, 0);
        assert!(walk.joins(&to("c").expect("a place")));
        assert!(!walk.joins(&to("d").expect("a place")), "nothing was heard of what is before");
        walk.goes_to(to("d"), 29, 0);
        assert_eq!(round(&mut walk), ("d".to_owned(), Some((1, 1 << 19))), "one row, one range");
        walk.goes_to(to("e"), 1, 0);
        assert_eq!(round(&mut walk), (String::new(), None));
        assert!(!walk.token().is_empty());
    }

    #[test]
    fn a_step_by_step_walk_asks_nobody_before_it_has_heard_the_one_before() {
        let mut walk = walk(100).step_by_step();
        let mut all = Vec::new();
        for end in ["b", "c", "d", ""] {
            all.push(round(&mut walk).0);
            walk.goes_to(to(end), 0, 0);
        }
        assert_eq!(all, ["", "b", "c", "d"]);
        assert_eq!((round(&mut walk).1, walk.token()), (None, String::new()), "it has ended");
    }

    #[test]
    fn a_page_asks_so_many_ranges_at_most_and_the_next_goes_on() {
        let mut walk = walk(100);
        let mut asked = 0;
        loop {
            let steps = walk.round(|_, max| (0..max).map(|at| format!("m{at}")).collect());
            asked += steps.len();
            if steps.is_empty() {
                break;
            }
            assert!(steps.len() <= AT_ONCE_MAX);
            walk.goes_to(to("m"), 0, 0);
        }
        assert_eq!(asked, RANGES_MAX);
        let mut next = Walk::new("x".to_owned(), &walk.token(), 9).expect("its own token");
        assert_eq!(round(&mut next).0, "m");
    }

    #[test]
    fn a_token_keeps_the_place_inside_of_a_range_and_is_for_one_walk() {
        let mut walk = walk(1);
        let place = Place { from: "ä\0".to_owned(), after: vec![0, 0xab, 0x0f].into() };
        walk.goes_to(Some(place.clone()), 1, 0);
        let mut next = Walk::new("x".to_owned(), &walk.token(), 9).expect("its own token");
        assert_eq!(next.round(starts)[0].at, place);
        Walk::new("y".to_owned(), &walk.token(), 9).expect_err("a token of another walk");
        let no_place = page_token::encode("x", "ff");
        Walk::new("x".to_owned(), &no_place, 9).expect_err("it names no place");
        let no_bytes = page_token::encode("x", "fg\na");
        Walk::new("x".to_owned(), &no_bytes, 9).expect_err("these are no bytes");
    }

    #[test]
    fn a_range_ends_behind_the_name_for_which_it_was_asked() {
        assert_eq!(Place::behind("b", "a".to_owned()), None);
        assert_eq!(Place::behind("b", "b".to_owned()), None);
        assert_eq!(Place::behind("b", String::new()), Some(None));
    }
}
