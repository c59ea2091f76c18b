//! Replication slots on real servers, and what other clusters say of themselves.

use std::collections::{BTreeMap, BTreeSet};

use tenure::model::{Lineage, NewSlot, Serving, SlotAdvance, SlotPlan, SlotRow, Timeline};
use tenure::postgres::{
    Gauge, apply_slot_plan, ask_lineage, copy_slots, promote, start_primary, start_standby, stop_orderly,
};

use super::support::{Instance, PATIENCE, bin_dirs};
use super::{major_of, wait};

fn physical(name: &str) -> NewSlot {
    NewSlot::Physical { name: name.to_owned() }
}

fn logical(name: &str, copies: bool) -> NewSlot {
    let text = |text: &str| text.to_owned();
    NewSlot::Logical { name: text(name), database: text("postgres"), plugin: text("pgoutput"), copies }
}

async fn slots_of(node: &mut Instance) -> BTreeMap<String, SlotRow> {
    node.look().await.slots.into_iter().map(|slot| (slot.name.clone(), slot)).collect()
}

#[tokio::test]
async fn slots_are_made_advanced_and_dropped_on_a_standby_too() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::standby_of(&turku, "oulu").await;
        let make = SlotPlan { create: vec![physical("vaasa"), physical("it's")], ..SlotPlan::default() };
        let complaints = apply_slot_plan(&oulu.settings, &make, PATIENCE).await.expect("done");
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        let slots = oulu.look().await.slots;
        assert_eq!(slots.len(), 1);
        let restart = slots[0].restart.expect("it keeps WAL");
        assert!(slots[0].physical && !slots[0].failover && !slots[0].holds_xmin, "{slots:?}");
        assert!(slots[0].safe_bytes.is_some(), "there is a limit to what it keeps");

        turku.sql("CREATE TABLE filler AS SELECT * FROM generate_series(1, 10000)").await;
        oulu.until_sql("SELECT count(*) FROM pg_class WHERE relname = 'filler'", "1").await;
        let replayed = match oulu.running().await.serving {
            Serving::Standby { replayed, .. } => replayed.expect("known"),
            primary @ Serving::Primary { .. } => panic!("{primary:?}"),
        };
        let advance = SlotAdvance { name: "vaasa".to_owned(), to: replayed, database: None };
        let advance = SlotPlan { advance: vec![advance], ..SlotPlan::default() };
        assert_eq!(apply_slot_plan(&oulu.settings, &advance, PATIENCE).await, Ok(Vec::new()));
        assert!(restart < oulu.look().await.slots[0].restart.expect("it keeps WAL"));
        let drop = SlotPlan { drop: vec!["vaasa".to_owned()], ..SlotPlan::default() };
        assert_eq!(apply_slot_plan(&oulu.settings, &drop, PATIENCE).await, Ok(Vec::new()));
        assert!(oulu.look().await.slots.is_empty());
    }
}

/// A primary whose logical slot a standby takes over: copied by us, or by PostgreSQL itself where it can.
#[tokio::test]
async fn a_logical_slot_goes_on_where_the_next_primary_is() {
    for bin_dir in bin_dirs() {
        let mut turku = Instance::new(&bin_dir, "turku");
        let logical_wal = ("wal_level".to_owned(), "logical".to_owned());
        turku.settings.parameters.extend([logical_wal.clone()]);
        tenure::postgres::bootstrap(&turku.settings, PATIENCE).await.expect("bootstrapped");
        start_primary(&turku.settings, PATIENCE).await.expect("started");
        let copies = 17 <= major_of(&turku);
        turku.sql("CREATE TABLE orders (n int)").await;
        // As somebody made it who knew nothing of copies.
        let make = SlotPlan { create: vec![logical("cdc", false)], ..SlotPlan::default() };
        assert_eq!(apply_slot_plan(&turku.settings, &make, PATIENCE).await, Ok(Vec::new()));

        let mut oulu = Instance::new(&bin_dir, "oulu");
        oulu.settings.parameters.extend([logical_wal]);
        oulu.settings.copied_slots = true;
        tenure::postgres::clone_from(&oulu.settings, turku.address(), PATIENCE, &Gauge::default())
            .await
            .expect("cloned");
        turku.make_slot_for(&oulu).await;
        let upstream = Some(turku.address().clone());
        start_standby(&oulu.settings, upstream.clone(), PATIENCE).await.expect("started");
        oulu.until_streaming().await;
        turku.sql("INSERT INTO orders VALUES (1)").await;

        let slots = BTreeSet::from(["cdc".to_owned(), "unknown".to_owned()]);
        if copies {
            let keep = SlotPlan { keep_copies: vec!["cdc".to_owned()], ..SlotPlan::default() };
            assert_eq!(apply_slot_plan(&turku.settings, &keep, PATIENCE).await, Ok(Vec::new()));
            assert!(slots_of(&mut turku).await["cdc"].failover);
            // PostgreSQL takes its copy as soon as the slot has moved beyond what the standby has.
            for _ in super::tries() {
                turku.sql("SELECT pg_replication_slot_advance('cdc', pg_current_wal_lsn())").await;
                turku.sql("SELECT pg_log_standby_snapshot()").await;
                if slots_of(&mut oulu).await.get("cdc").is_some_and(|slot| slot.failover && !slot.temporary) {
                    break;
                }
                wait().await;
            }
        } else {
            // The standby lacks what the slot still needs: it is not even stopped.
            let copy = async || {
                copy_slots(&oulu.settings, turku.address(), &slots, upstream.clone(), PATIENCE).await
            };
            let refused = copy().await.expect_err("WAL from before the clone");
            assert!(refused.to_string().contains("must move on first"), "{refused}");
            oulu.sql("SELECT 1").await;
            let mut outcome = Err(refused);
            for _ in super::tries() {
                turku
                    .sql("CHECKPOINT; SELECT pg_replication_slot_advance('cdc', pg_current_wal_lsn())")
                    .await;
                outcome = copy().await;
                if outcome.is_ok() {
                    break;
                }
                wait().await;
            }
            outcome.expect("copied");
            oulu.until_streaming().await;
            // It follows its consumer on the primary.
            turku.sql("SELECT pg_replication_slot_advance('cdc', pg_current_wal_lsn())").await;
            let to = slots_of(&mut turku).await["cdc"].confirmed.expect("advanced");
            turku.sql("INSERT INTO orders VALUES (2)").await;
            oulu.until_sql("SELECT count(*) FROM orders", "2").await;
            let advance = SlotAdvance { name: "cdc".to_owned(), to, database: Some("postgres".to_owned()) };
            let advance = SlotPlan { advance: vec![advance], ..SlotPlan::default() };
            assert_eq!(apply_slot_plan(&oulu.settings, &advance, PATIENCE).await, Ok(Vec::new()));
            assert_eq!(slots_of(&mut oulu).await["cdc"].confirmed, Some(to));
        }
        let slot = slots_of(&mut oulu).await.remove("cdc").expect("it is there");
        assert!(!slot.physical && slot.plugin.as_deref() == Some("pgoutput"), "{slot:?}");

        stop_orderly(&turku.settings, PATIENCE).await.expect("stopped");
        promote(&oulu.settings, Timeline(2), PATIENCE).await.expect("promoted");
        oulu.sql("INSERT INTO orders VALUES (3)").await;
        oulu.sql("SELECT pg_replication_slot_advance('cdc', pg_current_wal_lsn())").await;
        assert!(slot.confirmed < slots_of(&mut oulu).await["cdc"].confirmed);
    }
}

#[tokio::test]
async fn another_cluster_tells_where_its_timeline_comes_from() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::standby_of(&turku, "oulu").await;
        let asker = Instance::new(&bin_dir, "vaasa");
        let told = ask_lineage(&asker.settings, turku.address(), PATIENCE).await.expect("told");
        assert_eq!(told.1, Lineage { timeline: Timeline(1), ancestors: Vec::new() });
        stop_orderly(&turku.settings, PATIENCE).await.expect("stopped");
        promote(&oulu.settings, Timeline(4), PATIENCE).await.expect("promoted");
        let (system, lineage) = ask_lineage(&asker.settings, oulu.address(), PATIENCE).await.expect("told");
        assert_eq!((system, lineage.timeline), (told.0, Timeline(4)));
        match oulu.running().await.serving {
            Serving::Primary { forks, .. } => assert_eq!(forks, Some(lineage.ancestors)),
            standby @ Serving::Standby { .. } => panic!("{standby:?}"),
        }
        let silent = ask_lineage(&asker.settings, turku.address(), PATIENCE).await.expect_err("it is down");
        assert!(!silent.to_string().contains("secret"), "{silent}");
    }
}
