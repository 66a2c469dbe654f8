//! "Did you mean …": the allowed word nearest to the one that was written.

/// The nearest of `allowed`, if it is near enough to have been meant.
pub(super) fn nearest<'a>(written: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase().replace('-', "_");
    let near_enough = (written.chars().count() / 3).clamp(1, 3);
    allowed
        .into_iter()
        .map(|word| (distance(&written, &word.replace('-', "_")), word))
        .filter(|(distance, _)| *distance <= near_enough)
        .min()
        .map(|(_, word)| word)
}

/// How many characters must be added, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let allowed = ["segment_max_bytes", "segment_max_age", "url", "hot_retention"];
        assert_eq!(nearest("segment_max_byte", allowed), Some("segment_max_bytes"));
        assert_eq!(nearest("segment-max-age", allowed), Some("segment_max_age"));
        assert_eq!(nearest("ulr", allowed), Some("url"));
        assert_eq!(nearest("HotRetention", allowed), Some("hot_retention"));
        assert_eq!(nearest("password", allowed), None);
        assert_eq!(nearest("", allowed), None);
    }
}
