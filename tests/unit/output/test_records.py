"""The records of logs that are no file of a task's own: whole or not there."""

import random

import pytest

from mpifarm.output.records import (
    NO_RECORD,
    SLOT,
    RankFiles,
    Record,
    encode_again,
    encode_record,
    encode_slot,
    find_again_lines,
    find_rank_files,
    parse_records,
    renumber,
    renumber_slots,
)

LARGEST = Record(10**15 - 1, 10**9 - 1, 10**5, 10**12 - 1.0, 10**9 - 1, 0, None)
SOME = Record(17, 2, 3, 1764000000.123456, None, 4096, 120)


def any_record(chance: random.Random) -> Record:
    file = chance.choice([None, chance.randrange(50)])
    return Record(
        chance.randrange(200),
        chance.randrange(1, 4),
        chance.randrange(128),
        round(chance.uniform(1.7e9, 1.8e9), 6),
        file,
        chance.randrange(1 << 40),
        chance.choice([None, 0, chance.randrange(1 << 40)]),
    )


def test_a_record_is_read_as_it_was_written():
    chance = random.Random(1)
    for _ in range(2000):
        record = any_record(chance)
        assert list(parse_records(encode_record(record))) == [record]
        assert list(parse_records(encode_slot(record))) == [record]


def test_a_slot_has_room_for_the_largest_numbers():
    assert len(encode_slot(LARGEST)) == len(NO_RECORD) == SLOT
    assert encode_slot(LARGEST).endswith(b" \n")


def test_what_is_torn_is_no_record_and_spoils_no_other():
    chance = random.Random(2)
    for _ in range(1000):
        content, whole = b"", []
        for record in (any_record(chance) for _ in range(chance.randrange(12))):
            line = encode_record(record)
            if chance.random() < 0.3:
                line = line[: chance.randrange(len(line))]
            else:
                whole.append(record)
            content += line
        assert list(parse_records(content)) == whole
        asked = chance.randrange(200)
        of_it = [record for record in whole if record.taskid == asked]
        assert list(parse_records(content, asked)) == of_it


def test_holes_of_slots_that_were_never_written_hold_nothing():
    slots = b"\0" * SLOT + encode_slot(SOME) + NO_RECORD + b"\0" * SLOT
    assert list(parse_records(slots)) == [SOME]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"@17 2 3 1764000000.123456 - 4096 120.",  # no newline
        b"@17 2 3 1764000000.123456 - 4096 120\n",  # no dot
        b"@17 2 3 1764000000.12345 - 4096 120.\n",
        b"@17 2 3 1764000000.123456 -  120.\n",
        b"@17 2 3 1764000000.123456 - 4096 120 7.\n",
        b"@-17 2 3 1764000000.123456 - 4096 120.\n",
        b"@17 2 3 1764000000.123456 - 4096 \xb2.\n",
        b"@" + b"9" * 5000 + b" 2 3 1764000000.123456 - 4096 120.\n",
        b"17 2 3 1764000000.123456 - 4096 120.\n",
    ],
)
def test_a_line_that_is_not_quite_a_record_is_none(line):
    assert list(parse_records(line)) == []
    assert list(parse_records(line + encode_record(SOME))) == [SOME]


def test_records_under_new_ids_leave_out_what_has_none():
    records = [SOME, SOME._replace(taskid=4), SOME._replace(taskid=5)]
    content = b"".join(map(encode_record, records)) + b"@17 2 3 17"
    moved = list(parse_records(renumber(content, {17: 4, 5: 17})))
    assert moved == [SOME._replace(taskid=4), SOME._replace(taskid=17)]


def test_slots_under_new_ids_stay_where_they_are():
    slots = encode_slot(SOME) + b"\0" * SLOT + encode_slot(SOME._replace(taskid=4))
    moved = renumber_slots(slots, {4: 9})
    assert moved == NO_RECORD * 2 + encode_slot(SOME._replace(taskid=9))


def test_the_files_of_a_rank_are_told_from_others():
    rank_files = RankFiles("w/logs/packed", "f00dcafe", 12)
    for path in (rank_files.index, rank_files.running):
        name, kind = path.removeprefix("w/logs/packed/"), path.rpartition(".")[2]
        assert find_rank_files("w/logs/packed", name, kind) == rank_files
        assert find_rank_files("w/logs/packed", name, "pack") is None
    own = rank_files.scratch(3, 0).removeprefix("w/logs/packed/")
    for name in (own, "index", ".index", "a.index", "a.b.index", "a.1.index.old"):
        assert find_rank_files("w/logs/packed", name, "index") is None


def test_the_line_before_a_later_attempt_is_found_at_the_start_of_a_line():
    line = f"=== mpifarm: {encode_again(2, 'f00d', 1.764e9, 'host n1')} ===\n".encode()
    content = b"first\n" + line + b"x" + line + b"second\n"
    (found,) = find_again_lines(content)
    assert (found.attempt, found.farm, found.started) == (2, "f00d", 1.764e9)
    assert content[found.begin : found.end] == line
    assert found.begin == len(b"first\n")
