//! How sure a count or a mean is: Wilson's bound of a share, McNemar's test of paired answers, standard errors.
//!
//! Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927); Q. McNemar,
//! "Note on the sampling error of the difference between correlated proportions or percentages" (1947), in its exact
//! form.

/// The normal quantile that leaves 2.5 % at each end.
const Z: f64 = 1.959_963_985;

/// Lower end of Wilson's 95 % interval of a share: `hits` of `n` were seen. `None` for no observations.
pub fn wilson_lower(hits: usize, n: usize) -> Option<f64> {
    if n == 0 {
        return None;
    }
    let (n, share) = (n as f64, hits as f64 / n as f64);
    let z2 = Z * Z;
    let spread = Z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    Some(((share + z2 / (2.0 * n) - spread) / (1.0 + z2 / n)).max(0.0))
}

/// How likely two equally good sides differ at least as unevenly as seen, when `a` pairs were right on the one side
/// only and `b` on the other only: the two-sided binomial test at one half. 1 where they never differ.
pub fn mcnemar(a: usize, b: usize) -> f64 {
    let n = a + b;
    // ln of (n over i) / 2^n, term by term, so that no factorial overflows.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=a.min(b) {
        tail += ln_term.exp();
        ln_term += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// Sum over number.
    pub value: f64,
    /// Root of the sample variance over the number.
    pub error: f64,
}

/// `None` below two values: one has no error.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<Mean> {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        n += 1.0;
        sum += value;
        squares += value * value;
    }
    if n < 2.0 {
        return None;
    }
    let value = sum / n;
    // Rounding can leave the variance of equal values a hair below zero.
    let variance = (squares / n - value * value).max(0.0);
    Some(Mean {
        value,
        error: (variance / (n - 1.0)).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_wilsons() {
        // Worked out by hand: n = 10, 8 hits, z^2 = 3.8415.
        assert!((wilson_lower(8, 10).unwrap() - 0.490_162).abs() < 1e-5);
        // All hits: n / (n + z^2).
        let all = 1000.0 / (1000.0 + Z * Z);
        assert!((wilson_lower(1000, 1000).unwrap() - all).abs() < 1e-12);
        assert_eq!(wilson_lower(0, 5), Some(0.0));
        assert_eq!(wilson_lower(0, 0), None);
    }

    #[test]
    fn the_paired_test_is_the_binomial_one() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(3, 3), 1.0);
        // 2 * (1 + 5) / 32
        assert!((mcnemar(4, 1) - 0.375).abs() < 1e-12);
        assert!((mcnemar(0, 10) - 2.0 / 1024.0).abs() < 1e-12);
        assert_eq!(mcnemar(2, 9), mcnemar(9, 2));
        // Far out it neither overflows nor becomes negative.
        let far = mcnemar(4000, 6000);
        assert!((0.0..1e-80).contains(&far), "{far}");
    }

    #[test]
    fn a_mean_has_its_standard_error() {
        let of = |values: &[f64]| mean(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1.0]), None);
        let four = of(&[1.0, 2.0, 4.0, 5.0]).unwrap();
        assert_eq!(four.value, 3.0);
        assert!((four.error - (2.5f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!(of(&[0.1; 1000]).unwrap().error < 1e-8);
    }
}
