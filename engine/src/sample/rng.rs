//! Random numbers without a state: Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011), keyed by the seed, counted by the position. Drawing for position 100
//! needs no draw for position 99, so batches, chunks and roll-backs cannot disturb it.

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// The number in [0, 1) that belongs to a seed and a position: a multiple of 2⁻⁵³.
pub fn uniform(seed: u64, position: u64) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, 0, 0];
    let [low, high, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = u64::from(high) << 32 | u64::from(low);
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key[0] = key[0].wrapping_add(KEY_STEPS[0]);
        key[1] = key[1].wrapping_add(KEY_STEPS[1]);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_numbers() {
        // Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn numbers_are_even_and_below_one() {
        let mut bins = [0u32; 16];
        let mut sum = 0.0;
        const DRAWS: u64 = 64_000;
        for position in 0..DRAWS {
            let drawn = uniform(7, position);
            assert!((0.0..1.0).contains(&drawn));
            bins[(drawn * 16.0) as usize] += 1;
            sum += drawn;
        }
        assert!((sum / DRAWS as f64 - 0.5).abs() < 0.005);
        // 4,000 expected in each, standard deviation 61.
        assert!(bins.iter().all(|&count| count.abs_diff(4000) < 310), "{bins:?}");
        assert_ne!(uniform(7, 0), uniform(8, 0));
    }
}
