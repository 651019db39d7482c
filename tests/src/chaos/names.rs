//! Names of locks in a run: groups, and the ranges into which operators cut them.

/// The group of a name: `g3/hot` is of group 3.
pub fn group_of(name: &str) -> Option<u32> {
    name.strip_prefix('g')?.split_once('/')?.0.parse().ok()
}

/// A name near the begin of the range that begins at `start`: before everything that operators cut at, since
/// `!` comes before all letters.
pub fn inside(start: &str, label: &str) -> String {
    let begin = if start.is_empty() { "g0/" } else { start };
    format!("{begin}!{label}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_their_groups() {
        assert_eq!((group_of("g3/hot"), group_of("g12/own/1-2")), (Some(3), Some(12)));
        assert_eq!((group_of(""), group_of("hot"), group_of("gx/1")), (None, None, None));
    }

    #[test]
    fn a_name_inside_a_range_is_before_the_next_cut() {
        for (start, end) in
            [("", "g0/hot"), ("g0/hot", "g0/own"), ("g1/", "g1/hot"), ("g7/", "g8/")]
        {
            let name = inside(start, "own-1-3");
            assert!(start < name.as_str() && name.as_str() < end, "{name}");
            assert!(group_of(&name).is_some());
        }
    }
}
