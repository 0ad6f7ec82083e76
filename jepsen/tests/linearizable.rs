//! The search for a linearization against brute force on small histories: every order of every subset is tried.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, strategy::ValueTree};
use spine_jepsen::{
    checker::{
        linearizable::{Interval, Linearizability, Model, check},
        model::{Input, Output, Register},
    },
    clock::Micros,
};

type Operation = Interval<Input, Output>;

/// Whether some order of all answered operations, and of any of the others, explains every answer.
fn brute_force(operations: &[Operation], state: u32, left: &[usize]) -> bool {
    if left.iter().all(|at| operations[*at].output.is_none()) {
        return true;
    }
    left.iter().any(|&next| {
        let one = &operations[next];
        // Nothing that is left may have ended before this one began.
        let may_be_next = left.iter().all(|other| {
            let other = &operations[*other];
            other.output.is_none() || other.end >= one.start
        });
        let others: Vec<_> = left.iter().copied().filter(|at| *at != next).collect();
        may_be_next
            && Register
                .step(&state, &one.input, one.output.as_ref())
                .is_some_and(|state| brute_force(operations, state, &others))
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = 0..4_u32;
    let input = prop_oneof![
        3 => value.clone().prop_map(|value| (Input::Read, Output::Value(value))),
        2 => (1..4_u32).prop_map(|value| (Input::Write(value), Output::Done)),
        2 => (value, 1..4_u32, any::<bool>())
            .prop_map(|(from, to, done)| (Input::Cas(from, to), Output::Was(done))),
        1 => option::of(any::<bool>())
            .prop_map(|found| (Input::Delete, found.map_or(Output::Done, Output::Was))),
    ];
    (input, 0..20_u64, 0..8_u64, prop::bool::weighted(0.85)).prop_map(
        |((input, output), start, takes, is_answered)| Interval {
            start: Micros(start),
            end: Micros(start + takes),
            input,
            output: is_answered.then_some(output),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn agrees_with_brute_force(operations in vec(operation(), 0..7)) {
        let all: Vec<usize> = (0..operations.len()).collect();
        let expected = brute_force(&operations, 0, &all);
        let found = check(&Register, &operations, Duration::from_secs(10));
        prop_assert_eq!(found == Linearizability::Holds, expected, "{:?}", found);
        prop_assert_ne!(found, Linearizability::Undecided);
    }
}

#[test]
fn both_answers_are_common_among_the_small_histories() {
    // Otherwise the agreement above would say little.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = vec(operation(), 3..7);
    let mut holds = 0;
    for _ in 0..1000 {
        let operations = strategy.new_tree(&mut runner).unwrap().current();
        let all: Vec<usize> = (0..operations.len()).collect();
        holds += usize::from(brute_force(&operations, 0, &all));
    }
    assert!((100..900).contains(&holds), "{holds} of 1000 hold");
}

#[test]
fn gives_up_at_the_time_limit() {
    // Writes of unknown outcome and a read that nothing explains: every subset in every order would have to be tried.
    let mut operations: Vec<Operation> = (1..60)
        .map(|value| Interval {
            start: Micros(0),
            end: Micros::NEVER,
            input: Input::Write(value),
            output: None,
        })
        .collect();
    operations.push(Interval {
        start: Micros(1),
        end: Micros(2),
        input: Input::Read,
        output: Some(Output::Value(1000)),
    });
    let found = check(&Register, &operations, Duration::from_millis(50));
    assert_eq!(found, Linearizability::Undecided);
}
