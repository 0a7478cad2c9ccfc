//! Templates, as `management` sees them: booted, used, and no good.

use gtvp_ipc::drivers::{ListTemplates, RemoveTemplate, Start, Stop, TEMPLATE_FAILED};
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};

use super::in_own_network;
use super::machine::Character;
use super::supervisor::played;
use super::world::{World, a_box, at};

fn from(slot: u16, template: Option<Digest>) -> Start {
    Start { template, publish: Vec::new(), ..a_box(slot) }
}

fn stop(world: &World, slot: u16) {
    world.call(&Stop { slot: at(slot), grace_ms: 0 }).unwrap();
}

fn is_templates(fault: &Fault) -> bool {
    fault.causes.iter().any(|c| c == TEMPLATE_FAILED)
}

#[test]
fn a_template_is_booted_found_used_and_removed() {
    in_own_network(|| {
        let mut world = World::new(played(Character::default()));
        assert_eq!(world.find_template().template, None, "nothing is known before the first start");
        let built = world.build_template(9).unwrap();
        assert_eq!((built.memory_bytes, built.qemu.as_str()), (512 << 20, "10.0.2 (played)"));
        assert!(
            world.supervisor.running().is_empty() && world.left_behind().is_empty(),
            "its machine has ended"
        );
        let template: Digest = built.digest.parse().unwrap();
        assert_eq!(world.find_template().template, Some(template));
        for slot in [1, 2] {
            world.start(&from(slot, Some(template))).0.unwrap();
        }
        assert_eq!(world.call(&ListTemplates {}).unwrap()[0].starts, 2);
        // It outlives the domain, and the boxes outlive it.
        world.kill_domain();
        assert_eq!(world.find_template().template, Some(template));
        world.call(&RemoveTemplate { digest: template.short() }).unwrap();
        assert!(world.call(&ListTemplates {}).unwrap().is_empty());
        assert_eq!(world.supervisor.running(), ["qemu", "qemu"]);
        for slot in [1, 2] {
            stop(&world, slot);
        }
    });
}

#[test]
fn a_start_without_its_template_says_so_and_leaves_nothing() {
    in_own_network(|| {
        let world = World::new(played(Character::default()));
        world.build_template(9).unwrap();
        // One of somebody else's: no file of it is here, and none can be given.
        let fault = world.start(&from(1, Some(Digest::of(b"foreign")))).0.unwrap_err();
        assert!(is_templates(&fault), "{fault}");
        assert!(world.supervisor.running().is_empty() && world.left_behind().is_empty());
        // One whose image was changed.
        let template = world.find_template().template;
        let image = std::fs::read_dir(world.templates()).unwrap().map(|e| e.unwrap().path());
        let image = image.into_iter().find(|p| p.extension().is_some_and(|e| e == "image")).unwrap();
        std::fs::write(image, b"changed").unwrap();
        let fault = world.start(&from(1, template)).0.unwrap_err();
        assert!(is_templates(&fault) && fault.to_string().contains("not what was saved"), "{fault}");
        assert_eq!(world.find_template().template, None, "it is gone");
        world.start(&from(1, None)).0.unwrap();
        stop(&world, 1);
    });
}

#[test]
fn a_machine_that_does_not_come_up_from_its_template_may_boot() {
    for character in [
        Character { does_not_load: true, ..Character::default() },
        Character { wakes_not: true, ..Character::default() },
    ] {
        let why = if character.does_not_load { "section mismatch" } else { "said nothing" };
        in_own_network(move || {
            let world = World::new(played(character));
            let template: Digest = world.build_template(9).unwrap().digest.parse().unwrap();
            let fault = world.start(&from(1, Some(template))).0.unwrap_err();
            assert!(is_templates(&fault) && fault.to_string().contains(why), "{fault}");
            assert!(world.supervisor.running().is_empty() && world.left_behind().is_empty());
            // Booted, the same box comes up.
            world.start(&from(1, None)).0.unwrap();
            stop(&world, 1);
        });
    }
}

#[test]
fn what_fails_in_the_application_is_not_the_templates() {
    in_own_network(|| {
        let world = World::new(played(Character { no_such_command: true, ..Character::default() }));
        let template: Digest = world.build_template(9).unwrap().digest.parse().unwrap();
        let fault = world.start(&from(1, Some(template))).0.unwrap_err();
        assert!(fault.kind == FaultKind::BoxFailed && !is_templates(&fault), "{fault}");
    });
}
