//! Any bytes as a README: a card whose fields are bounded, whatever stands in it.
#![no_main]

use bitnet_models::export::ModelCard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let card = ModelCard::parse(data);
    for list in [&card.languages, &card.tags, &card.base_models] {
        assert!(list.len() <= 64 && list.iter().all(|value| value.len() <= 512));
    }
    for value in [&card.license, &card.license_name, &card.license_link].into_iter().flatten() {
        assert!(!value.contains(char::is_control));
    }
});
