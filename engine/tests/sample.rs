//! Laws of sampling: the right distribution, filters that keep what they promise, and choices that
//! depend on nothing but their inputs.

use engine::sample::{SampleError, Sampler, SamplingParams, uniform};

fn choose(logits: &[f32], params: &SamplingParams, seed: u64, position: u64) -> u32 {
    params.check().unwrap();
    Sampler::new().choose(logits, params, seed, position).unwrap().id
}

fn random_logits(count: u32, seed: u64) -> Vec<f32> {
    (0..count).map(|id| (uniform(seed, u64::from(id)) * 12.0 - 6.0) as f32).collect()
}

/// How often each id is drawn in `draws` positions.
fn counts(logits: &[f32], params: &SamplingParams, draws: u64) -> Vec<u64> {
    let mut counts = vec![0; logits.len()];
    let mut sampler = Sampler::new();
    for position in 0..draws {
        counts[sampler.choose(logits, params, 11, position).unwrap().id as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_lower_id() {
    let low = f32::NEG_INFINITY;
    for (logits, want) in [
        (&[1.0, 3.0, 2.0][..], 1),
        (&[3.0, 3.0, 3.0], 0),
        (&[low, -5.0, -5.0], 1),
        (&[-0.0, 0.0], 0),
        (&[f32::MIN, low], 0),
    ] {
        assert_eq!(choose(logits, &SamplingParams::greedy(), 1, 2), want, "{logits:?}");
    }
}

#[test]
fn the_largest_is_found_and_no_number_refused_wherever_it_stands() {
    for count in 1..50 {
        for place in 0..count {
            let mut logits = vec![-1.0; count];
            logits[place] = 2.0;
            logits[place..].iter_mut().skip(1).step_by(3).for_each(|logit| *logit = 2.0);
            let found = choose(&logits, &SamplingParams::greedy(), 1, 2);
            assert_eq!(found as usize, place, "of {count}");
            for bad in [f32::NAN, f32::INFINITY] {
                logits[place] = bad;
                let error = Sampler::new().choose(&logits, &SamplingParams::greedy(), 1, 2);
                let error = error.unwrap_err().to_string();
                assert!(error.contains(&format!("logit of id {place} is {bad}")), "{error}");
            }
        }
    }
}

#[test]
fn frequencies_follow_the_distribution() {
    const DRAWS: u64 = 40_000;
    let logits = [0.0, 1.0, 2.0, f32::NEG_INFINITY, -1.0];
    for temperature in [0.5, 1.0, 2.0] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        let weights: Vec<f64> =
            logits.iter().map(|&logit| f64::from(logit / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (weight, count) in weights.iter().zip(counts(&logits, &params, DRAWS)) {
            let p = weight / total;
            let deviation = (count as f64 - p * DRAWS as f64).abs();
            let sigma = (DRAWS as f64 * p * (1.0 - p)).sqrt();
            assert!(deviation <= 5.0 * sigma, "temperature {temperature}: {count} for {p}");
        }
    }
}

#[test]
fn filters_keep_what_they_promise() {
    // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625, out of order.
    let logits = [0.125f32, 0.5, 0.0625, 0.25, 0.0625].map(f32::ln);
    let base = SamplingParams::default;
    for (params, want) in [
        (SamplingParams { top_k: 1, ..base() }, vec![1]),
        (SamplingParams { top_k: 3, ..base() }, vec![0, 1, 3]),
        // The fourth and fifth tie: the lower id stays.
        (SamplingParams { top_k: 4, ..base() }, vec![0, 1, 2, 3]),
        (SamplingParams { top_k: 99, ..base() }, vec![0, 1, 2, 3, 4]),
        (SamplingParams { top_p: 0.0, ..base() }, vec![1]),
        (SamplingParams { top_p: 0.49, ..base() }, vec![1]),
        (SamplingParams { top_p: 0.6, ..base() }, vec![1, 3]),
        (SamplingParams { top_p: 0.9, ..base() }, vec![0, 1, 2, 3]),
        (SamplingParams { min_p: 0.3, ..base() }, vec![1, 3]),
        (SamplingParams { min_p: 1.0, ..base() }, vec![1]),
        // 0.9 of the three likeliest, which together have 0.875: 0.7875, so all three.
        (SamplingParams { top_k: 3, top_p: 0.9, ..base() }, vec![0, 1, 3]),
        (SamplingParams { top_k: 3, top_p: 0.8, ..base() }, vec![1, 3]),
        (SamplingParams { top_k: 3, top_p: 0.9, min_p: 0.4, ..base() }, vec![1, 3]),
    ] {
        let counts = counts(&logits, &params, 3000);
        let seen: Vec<usize> = (0..logits.len()).filter(|&id| counts[id] > 0).collect();
        assert_eq!(seen, want, "{params:?}");
    }
}

#[test]
fn filters_that_cut_nothing_change_nothing() {
    let logits = random_logits(5000, 3);
    let base = SamplingParams::default();
    for params in [
        SamplingParams { top_k: 5000, ..base.clone() },
        SamplingParams { top_k: 1 << 30, ..base.clone() },
        SamplingParams { min_p: 1e-30, ..base.clone() },
        SamplingParams { top_p: 0.999_999_9, top_k: 5000, ..base.clone() },
    ] {
        for position in 0..50 {
            let want = choose(&logits, &base, 9, position);
            assert_eq!(choose(&logits, &params, 9, position), want, "{params:?} at {position}");
        }
    }
}

#[test]
fn top_p_agrees_with_a_full_sort() {
    for (seed, top_p) in [(1, 0.3f32), (2, 0.9), (3, 0.99), (4, 0.9999)] {
        let logits = random_logits(3000, seed);
        let mut order: Vec<u32> = (0..3000).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let mut sum = 0.0;
        let mut nucleus = Vec::new();
        for &id in &order {
            sum += f64::from(logits[id as usize]).exp();
            nucleus.push(id);
            if sum >= f64::from(top_p) * total {
                break;
            }
        }
        let params = SamplingParams { top_p, ..SamplingParams::default() };
        let drawn = counts(&logits, &params, 4000);
        assert!((0..3000).all(|id| drawn[id as usize] == 0 || nucleus.contains(&id)), "{top_p}");
        let last_missing = SamplingParams { top_k: nucleus.len() as u32, ..params.clone() };
        for position in 0..200 {
            let same = choose(&logits, &params, 5, position);
            let cut = SamplingParams { top_p: 1.0, ..last_missing.clone() };
            assert_eq!(choose(&logits, &cut, 5, position), same, "{top_p}");
        }
    }
}

#[test]
fn a_choice_depends_on_seed_and_position_only() {
    let rows: Vec<Vec<f32>> = (0..40).map(|row| random_logits(800, row)).collect();
    let params = SamplingParams { top_p: 0.95, logprobs: Some(5), ..SamplingParams::default() };
    let alone: Vec<u32> =
        (0..40).map(|row| choose(&rows[row], &params, row as u64 % 3, 100 + row as u64)).collect();
    // One sampler for all, backwards, with other work in between.
    let mut sampler = Sampler::new();
    for row in (0..40).rev() {
        sampler.choose(&rows[(row * 7) % 40], &SamplingParams::greedy(), 1, 1).unwrap();
        let seed = row as u64 % 3;
        let choice = sampler.choose(&rows[row], &params, seed, 100 + row as u64).unwrap();
        assert_eq!(choice.id, alone[row]);
    }
    let flat = vec![0.0; 1000];
    let drawn: Vec<_> = (0..20).map(|at| choose(&flat, &params, 1, at)).collect();
    let other: Vec<_> = (0..20).map(|at| choose(&flat, &params, 2, at)).collect();
    assert_ne!(drawn, other);
}

#[test]
fn logprobs_are_the_models_own() {
    let logits = [2.0f32, f32::NEG_INFINITY, 1.0, 2.0, 0.0];
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let want = |id: usize| (f64::from(logits[id]) - total.ln()) as f32;
    for temperature in [0.0, 0.3, 1.0] {
        let params = SamplingParams {
            temperature,
            top_k: 2,
            logprobs: Some(4),
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new();
        let choice = sampler.choose(&logits, &params, 1, 2).unwrap();
        assert!((choice.logprob.unwrap() - want(choice.id as usize)).abs() < 1e-6);
        let ids: Vec<u32> = sampler.top().iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [0, 3, 2, 4]);
        for &(id, logprob) in sampler.top() {
            assert!((logprob - want(id as usize)).abs() < 1e-6);
        }
        let none = SamplingParams { logprobs: Some(0), ..params.clone() };
        assert!(sampler.choose(&logits, &none, 1, 2).unwrap().logprob.is_some());
        assert!(sampler.top().is_empty());
        let off = SamplingParams { logprobs: None, ..params };
        assert_eq!(sampler.choose(&logits, &off, 1, 2).unwrap().logprob, None);
    }
}

#[test]
fn logits_that_are_no_numbers_are_refused() {
    let low = f32::NEG_INFINITY;
    for logits in [&[][..], &[low, low], &[0.0, f32::NAN], &[f32::INFINITY, 0.0]] {
        for params in [SamplingParams::greedy(), SamplingParams::default()] {
            let error = Sampler::new().choose(logits, &params, 1, 1).unwrap_err();
            assert!(matches!(error, SampleError::Logits(_)), "{logits:?}: {error}");
        }
    }
    let tiny = SamplingParams { temperature: f32::from_bits(1), ..SamplingParams::default() };
    assert_eq!(choose(&[1.0, 1.5, 1.25], &tiny, 1, 1), 1);
}
