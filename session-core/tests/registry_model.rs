//! Generated lives of a machine, held against a much smaller reference.

mod worlds {
    pub mod registry;
    pub mod schedules;
}

#[test]
fn nothing_turns_for_a_holder_that_is_gone_and_nothing_wanted_is_stopped() {
    worlds::schedules::hold("registry_model", 40_000, worlds::registry::schedule(), |events| {
        worlds::registry::run(&events)
    });
}
