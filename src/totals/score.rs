//! Scores of sorted sets -> counts.

/// The largest count that Redis scores (64-bit floating point) and JavaScript numbers hold exactly: 2^53 − 1.
const MAX_COUNT: f64 = 9_007_199_254_740_991.0;

/// The count that a score stands for: the nearest integer. A score beyond ±(2^53 − 1), which neither Redis nor JavaScript
/// counts exactly, stands for that.
pub(crate) fn count_of_score(score: f64) -> i64 {
    score.round().clamp(-MAX_COUNT, MAX_COUNT) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_counts_that_javascript_reads_exactly() {
        const MAX: i64 = 9_007_199_254_740_991;
        for (score, count) in [
            (3.0, 3),
            (-1.0, -1),
            (2.5, 3),
            (1e17, MAX),
            (-1e300, -MAX),
            (f64::INFINITY, MAX),
            (9_007_199_254_740_992.0, MAX),
            (9_007_199_254_740_990.0, MAX - 1),
        ] {
            assert_eq!(count_of_score(score), count, "{score}");
        }
    }
}
