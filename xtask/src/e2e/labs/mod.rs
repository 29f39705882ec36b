//! Scenarios on networks made for them. Links are cut in the network, where no sender is told: by the emulator that carries their packets.

mod asked_by_others;
pub mod by_cloud;
mod cloud_away;
mod clouded;
pub mod driver;
mod frozen;
mod interfaces;
mod machine_again;
mod mdns_lies;
mod nat_kinds;
pub mod places;
mod rebinding;
mod s49_cut_webrtc;
mod s62_internet_lost;
mod s63_new_client_offline;
mod s64_cut_at_home;
mod s65_outside_client;
mod s66_machine_alone;
mod s68_flap_and_loss;
mod s92_standby_answers;
mod s93_no_needless_copies;
mod s94_stop_wins;
mod s95_killed_behind_a_hole;
mod thin;
mod told;
pub mod town;
pub mod truth;
mod wan;

use super::{Scenario, scenario as lab};

/// Every lab, in the order of the statements.
pub(super) const SCENARIOS: &[Scenario] = &[
    lab("sessions", "s49_a_move_ends_with_its_webrtc_link", s49_cut_webrtc::nothing_left),
    lab("routes", "a_webrtc_link_moves_to_another_path_by_itself", s49_cut_webrtc::moves_to_another_pair),
    lab("routes", "a_webrtc_link_moves_to_a_path_through_translators", s49_cut_webrtc::moves_through_translators),
    lab("routes", "s61_two_ends_on_one_lan_use_it", by_cloud::on_one_lan),
    lab("routes", "s61_ends_that_a_cloud_introduces_meet_at_home", by_cloud::introduced_at_home),
    lab("offline", "s62_a_lan_client_does_not_notice_a_lost_internet", s62_internet_lost::run),
    lab("offline", "s63_a_new_client_connects_without_internet", s63_new_client_offline::run),
    lab("routes", "s64_a_client_that_comes_home_needs_no_internet", by_cloud::comes_home),
    lab("routes", "s64_the_internet_is_cut_under_a_connection_by_cloud", s64_cut_at_home::by_cloud),
    lab("routes", "s64_the_internet_is_cut_under_a_relayed_connection", s64_cut_at_home::by_relay),
    lab("routes", "s64_the_internet_is_cut_under_a_direct_connection", s64_cut_at_home::by_public_address),
    lab("offline", "s65_a_client_outside_loses_the_machine_and_comes_back", s65_outside_client::run),
    lab("offline", "s16_s66_a_machine_that_lost_every_network_stops_once", s66_machine_alone::run),
    lab("routes", "s67_a_client_that_leaves_home_goes_over_the_internet", by_cloud::leaves_home),
    lab("routes", "every_client_of_a_cloud_meets_the_machine_directly", by_cloud::several),
    lab("routes", "a_name_alone_leads_to_its_cloud", by_cloud::by_name_alone),
    lab("routes", "nothing_passes_but_the_relay", by_cloud::relay_only),
    lab("routes", "symmetric_translators_at_both_ends", by_cloud::symmetric_at_both_ends),
    lab("routes", "the_cloud_restarts_while_driving", by_cloud::cloud_restarts),
    lab("sessions", "s68_a_flap_of_a_second_costs_nothing", s68_flap_and_loss::flap),
    lab("sessions", "s68_a_fifth_of_the_packets_lost_costs_nothing", s68_flap_and_loss::loss),
    lab("sessions", "s68_a_fifth_lost_on_both_paths_costs_nothing", s68_flap_and_loss::loss_with_standby),
    lab("sessions", "a_round_trip_of_800_ms_costs_nothing", s68_flap_and_loss::long_way),
    lab("sessions", "a_way_that_becomes_long_costs_nothing", s68_flap_and_loss::becomes_long),
    lab("sessions", "a_way_both_long_and_lossy_is_said_to_be_too_slow", s68_flap_and_loss::long_and_lossy),
    lab("routes", "s92_the_standby_answers_before_the_primary_is_dead", s92_standby_answers::both_directions),
    lab("routes", "s92_upstream_lost_while_a_camera_streams", s92_standby_answers::upstream_with_camera),
    lab("routes", "s93_a_slow_handler_is_not_hedged", s93_no_needless_copies::slow_handler),
    lab("routes", "s93_a_busy_machine_is_not_hedged", s93_no_needless_copies::busy_machine),
    lab("routes", "s93_a_lossy_way_is_hardly_hedged", s93_no_needless_copies::lossy),
    lab("sessions", "s94_a_stop_behind_stalled_commands_wins", s94_stop_wins::queued),
    lab("sessions", "s94_commands_released_late_move_nothing", s94_stop_wins::released_late),
    lab("sessions", "s94_a_stop_over_a_long_way_is_confirmed", s94_stop_wins::long_way),
    lab("sessions", "s94_a_stop_wins_over_stalled_commands_to_a_stock_machine", s94_stop_wins::stock_stalled),
    lab("sessions", "s94_a_stop_wins_where_no_path_works", s94_stop_wins::no_route),
    lab("sessions", "s94_a_stop_wins_where_no_path_works_to_a_stock_machine", s94_stop_wins::no_route_stock),
    lab("sessions", "s94_a_stop_wins_over_parked_commands", s94_stop_wins::parked),
    lab("sessions", "s94_a_stop_wins_over_parked_commands_to_a_stock_machine", s94_stop_wins::parked_stock),
    lab("sessions", "s94_a_stop_without_a_link_is_kept", s94_stop_wins::nowhere_to_go),
    lab("sessions", "s94_a_stop_without_a_link_is_kept_for_a_stock_machine", s94_stop_wins::nowhere_to_go_stock),
    lab("sessions", "s95_nothing_of_a_killed_client_comes_through", s95_killed_behind_a_hole::run),
    lab("routes", "an_interface_goes_while_driving", interfaces::one_goes),
    lab("routes", "a_mapping_is_forgotten_while_driving", interfaces::mapping_forgotten),
    lab("routes", "webrtc_mappings_are_forgotten_while_driving", rebinding::forgotten),
    lab("routes", "a_webrtc_mapping_changes_its_port_while_driving", rebinding::another_port),
    lab(
        "routes",
        "a_webrtc_mapping_changes_its_port_before_a_strict_translator",
        rebinding::another_port_to_a_strict_translator,
    ),
    lab("sessions", "a_client_stopped_by_its_system", frozen::client),
    lab("sessions", "a_machine_stopped_by_its_system", frozen::machine),
    lab("sessions", "a_machine_started_again_is_found_again", machine_again::restarted),
    lab("sessions", "a_machine_that_cannot_prove_its_name_gets_nobody", machine_again::replaced),
    lab("lan", "a_question_is_answered_where_it_was_asked", asked_by_others::run),
    lab("lan", "an_impostor_answers_to_the_name", mdns_lies::impostor),
    lab("lan", "a_machine_that_moved_is_found", mdns_lies::moved),
    lab("offline", "two_segments_without_multicast_or_internet", wan::run),
    lab("offline", "two_segments_and_the_name_server_gone_too", wan::remembered),
    lab("routes", "images_over_a_thin_direct_link", thin::direct_down),
    lab("routes", "uploads_over_a_thin_direct_link", thin::direct_up),
    lab("routes", "images_over_a_thin_webrtc_link", thin::webrtc_down),
    lab("routes", "uploads_over_a_thin_webrtc_link", thin::webrtc_up),
    lab("cloud", "a_machine_whose_cloud_was_never_there_rests", cloud_away::never_there),
    lab("cloud", "a_machine_whose_cloud_was_killed_rests", cloud_away::killed),
    lab("cloud", "a_machine_whose_cloud_vanished_rests", cloud_away::vanished),
    lab("tool", "a_watch_tells_of_a_cut", told::watch),
    lab("tool", "a_dial_tells_how_a_name_was_found", told::by_name),
    lab("tool", "a_dial_tells_of_the_machines_own_signaling", told::own_signaling),
    lab("tool", "a_dial_tells_of_a_cloud", told::by_cloud),
    lab("tool", "a_dial_tells_why_it_failed", told::failed),
    lab("routes", "nat_of_four_kinds", nat_kinds::run),
];
