//! A range's whole state as one run of bytes: the machine's header, then its rows, each with its
//! length before it (four bytes, big-endian).

use bytes::{Buf, BufMut};

/// A machine's header and rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub header: Vec<u8>,
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}

/// `None`: nobody writes that.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Image> {
    let header = take(&mut bytes)?;
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        rows.push((take(&mut bytes)?, take(&mut bytes)?));
    }
    Some(Image { header, rows })
}

/// Adds the header, or a row's key, or its value.
pub(crate) fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("a row has less than 4 GiB");
    bytes.put_u32(length);
    bytes.put_slice(part);
}

fn take(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let length = bytes.try_get_u32().ok()? as usize;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_no_image() {
        let mut bytes = Vec::new();
        for part in [&b"head"[..], b"key", b"", b"k", b"value"] {
            put(&mut bytes, part);
        }
        let rows = vec![(b"key".to_vec(), vec![]), (b"k".to_vec(), b"value".to_vec())];
        let image = Image { header: b"head".to_vec(), rows };
        let whole_rows = [8, 19];
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]).is_some(), whole_rows.contains(&end), "{end}");
        }
        assert_eq!(decode(&bytes), Some(image));
    }
}
