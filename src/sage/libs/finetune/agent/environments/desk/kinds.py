"""The kinds of request: wordings, the world posed around them, and the expert's plan, one row each."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.environments.desk import requests, scripts


@dataclass(frozen=True)
class Kind:
    """A sort of request: `wordings` are for training and iid tests, `unseen` for test_wording only.

    `family` picks the tools shown; "any" draws one.
    """

    name: str
    family: str
    pose: Callable[[random.Random], requests.Posed]
    script: Callable[[dict[str, Any]], scripts.Script]
    wordings: tuple[str, ...]
    unseen: tuple[str, ...] = ()


_ABSENT = (
    "Send {name} an e-mail about the {item}.",
    "Print a label for {name} and the {item}.",
    "Call {name} on the phone about the {item}.",
    "Refund {name} for the {item}.",
    "Translate the {item} manual for {name}.",
    "Write {name} a poem about the {item}.",
    "Take a photo of the {item} for {name}.",
    "Ask the bank whether {name} paid for the {item}.",
    "Sing {name} a song about the {item}.",
    "Order {name} a taxi to see the {item}.",
    "Play some music for {name} by the {item}.",
    "Book {name} a train to the {item} fair.",
    "Show {name} a photo of the {item}.",
)
"""Requests that no tool of the desk can fulfil."""

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "order_status", "orders", requests.order_status, scripts.order_status,
            ("What is the status of {name}'s {item} order?", "How far is the {item} that {name} ordered?",
             "{name} asks about the {item} order. What is its status?", "Check the status of the {item} for {name}.",
             "Please look up the order status of {name}'s {item}.",
             "Has {name}'s {item} been sent, or what is its status?",
             "{name} is waiting for a {item}. Look up the status.",
             "Give me the status of the {item} order by {name}.",
             "Find out how the {item} order of {name} is doing.",
             "Where does {name}'s {item} stand?",
             "I need to know the status of the {item} for {name}."),
            ("Tell {name} what has become of the {item}.", "What state is {name}'s order of a {item} in?"),
        ),
        Kind(
            "order_total", "orders", requests.order_total, scripts.order_total,
            ("What does {name}'s {item} order cost in total?", "How much is the whole {item} order of {name}?",
             "Compute the total price of the {item} that {name} ordered.",
             "{name} wants the total for the {item} order.", "Price times quantity for {name}'s {item}, please.",
             "{name} bought some of the {item}. What do they cost altogether?",
             "Work out the total of {name}'s order of the {item}.",
             "How much money is {name}'s {item} order in all?",
             "Tell {name} the overall price of the {item} order.",
             "What must {name} pay in total for the {item}?",
             "Total cost of the {item} for {name}?"),
            ("What sum will {name} pay for the {item} order?", "Give the full amount of {name}'s {item} order."),
        ),
        Kind(
            "order_cancel", "orders", requests.order_cancel, scripts.order_cancel,
            ("Cancel {name}'s {item} order.", "{name} no longer wants the {item}. Cancel the order.",
             "Please cancel the {item} that {name} ordered.", "Stop the {item} order of {name}.",
             "The {item} order of {name} must be cancelled.",
             "Drop the {item} order that {name} made.",
             "{name} wants to cancel the {item}.",
             "Take back {name}'s order of the {item}.",
             "Annul the {item} order placed by {name}.",
             "Do not send {name} the {item}: cancel it.",
             "Can you cancel the {item} for {name}?"),
            ("{name} changed plans: call off the {item} order.", "Get the {item} order for {name} cancelled."),
        ),
        Kind(
            "order_resize", "orders", requests.order_resize, scripts.order_resize,
            ("Set order {order} to {quantity} pieces and tell me its price.",
             "Change the quantity of order {order} to {quantity}. What is the price?",
             "Order {order} should be {quantity} pieces. Which price does it have?",
             "Update order {order} to quantity {quantity} and give the price.",
             "Make it {quantity} pieces for order {order}; what is its price?",
             "Order {order}: change to {quantity} pieces and report the price.",
             "I want {quantity} pieces in order {order}. How much is one?",
             "Increase or cut order {order} to {quantity} and tell me what the price is.",
             "For order {order}, {quantity} pieces now. Its price?",
             "Let order {order} have quantity {quantity}, then read me the price.",
             "Correct order {order} to {quantity} pieces; which price is listed?"),
            ("Put {quantity} as the quantity of order {order}, then say the price.",
             "We need {quantity} pieces in order {order}. Name its price."),
        ),
        Kind(
            "order_resize_by_name", "orders", requests.order_resize_by_name, scripts.order_resize_by_name,
            ("Change {name}'s {item} order to {quantity} pieces.", "Set the {item} order of {name} to {quantity}."),
        ),
        Kind(
            "event_book", "calendar", requests.event_book, scripts.event_book,
            ("Book {title} at the {which} free hour on {day}. At what hour?",
             "Put {title} into the {which} free slot on {day} and tell me the hour.",
             "{day} needs a {title}: take the {which} free hour. Which is it?",
             "Find the {which} free hour on {day} for {title}, book it and say when.",
             "Add {title} on {day} in the {which} open slot. What hour?",
             "Reserve the {which} free hour of {day} for a {title} and tell me which hour.",
             "I want {title} on {day}, {which} free hour. When will it be?",
             "Give {title} the {which} open hour on {day} and report it.",
             "Set up {title} on {day} at the {which} hour nobody has. What hour is it?",
             "Plan a {title} on {day} in the {which} gap. At which hour?",
             "Enter {title} for {day}, in the {which} free hour, and name it."),
            ("Schedule {title} for {day}, {which} hour that is open. When is it?",
             "On {day} reserve the {which} free hour for {title} and name the hour."),
        ),
        Kind(
            "event_shift", "calendar", requests.event_shift, scripts.event_shift,
            ("Move the {title} on {day} {hours} hours later. What is the new hour?",
             "Shift {day}'s {title} by {hours} hours. When is it then?",
             "Push the {title} on {day} back {hours} hours and tell me the hour.",
             "The {title} on {day} starts {hours} hours later. Change it and say when.",
             "Delay {day}'s {title} by {hours} hours; what hour is it now?",
             "Can you move {day}'s {title} {hours} hours later? Tell me the new hour.",
             "The {title} on {day} must start {hours} hours later. What hour is that?",
             "Make the {title} on {day} begin {hours} hours after its hour and say it.",
             "Put {day}'s {title} back by {hours} hours. New hour?",
             "On {day} the {title} should be {hours} hours later. Move it and name the hour.",
             "Postpone the {title} on {day} by {hours} hours. At what hour is it now?"),
            ("Reschedule the {title} of {day} to {hours} hours later and name the hour.",
             "{day}: put off the {title} by {hours} hours. The new hour?"),
        ),
        Kind(
            "event_copy", "calendar", requests.event_copy, scripts.event_copy,
            ("Book {new} on {other} at the hour of {day}'s {title}. What hour?",
             "Put {new} on {other} at the same hour as the {title} on {day}. When is that?",
             "Add {new} on {other}, same hour as {day}'s {title}, and tell me the hour.",
             "{other} gets a {new} at the hour {day} has its {title}. Which hour?",
             "Look when {day}'s {title} is and book {new} on {other} then. Say the hour.",
             "Schedule {new} for {other} at the hour when {day} has its {title}. Which hour?",
             "When is the {title} on {day}? Book {new} on {other} at that hour and say it.",
             "Use the hour of the {title} on {day} for {new} on {other}. Name it.",
             "Reserve {other} for {new}, at the time {day}'s {title} has. What hour?",
             "{new} on {other} should be at the hour of the {title} on {day}. Enter it; when?",
             "Enter {new} for {other}: same hour as the {title} of {day}. Tell me which."),
            ("Plan {new} for {other} at whatever hour the {title} is on {day}. The hour?",
             "Like the {title} on {day}, so {new} on {other}: same hour. Book and name it."),
        ),
        Kind(
            "event_after", "calendar", requests.event_after, scripts.event_after,
            ("Book {new} on {other} {hours} hours after the hour of {day}'s {title}. What hour?",
             "Add {new} on {other}, {hours} hours later than the {title} on {day}. When is that?"),
        ),
        Kind(
            "file_owner", "files", requests.file_owner, scripts.file_owner,
            ("Who owns the {file} in {folder}?", "Tell me the owner of the {file} in the {folder} folder.",
             "Whose is the {file} that lies in {folder}?", "Find the owner of {file} in {folder}.",
             "The {file} in {folder}: who is its owner?",
             "Look up the owner of {folder}'s {file}.",
             "Which person owns the {file} in {folder}?",
             "In {folder} there is a {file}. Who does it belong to?",
             "I need the owner of the {file} kept in {folder}.",
             "Say who the {file} in folder {folder} belongs to.",
             "Owner of {file} in {folder}?"),
            ("Name the person who owns {file} in folder {folder}.", "To whom does the {file} under {folder} belong?"),
        ),
        Kind(
            "file_pages", "files", requests.file_pages, scripts.file_pages,
            ("How many pages do {file} and {second} in {folder} have together?",
             "Add up the pages of {file} and {second} in the {folder} folder.",
             "What is the page total of {file} and {second} in {folder}?",
             "{folder} holds {file} and {second}. How many pages are they in all?",
             "Count the pages of {file} plus {second} in {folder}.",
             "In {folder}, how long are {file} and {second} together, in pages?",
             "Sum the page counts of {file} and {second} from {folder}.",
             "Tell me the pages of {file} and {second} in {folder} combined.",
             "How many pages must I read for {file} and {second} in {folder}?",
             "{file} and {second} in {folder}: pages altogether?",
             "What do the pages of {folder}'s {file} and {second} add up to?"),
            ("Pages of {file} and {second} under {folder}, summed?",
             "If I print {file} and {second} from {folder}, how many pages is that?"),
        ),
        Kind(
            "file_move", "files", requests.file_move, scripts.file_move,
            ("Move the {file} from {folder} to {target}.", "Put the {file} in {folder} into {target}.",
             "The {file} in {folder} belongs in {target}. Move it.", "Please move {file} out of {folder} to {target}.",
             "File the {file} from {folder} under {target}.",
             "Take {file} from {folder} and put it in {target}.",
             "{file} is in {folder} but should be in {target}.",
             "Bring the {file} of {folder} over to {target}.",
             "Shift {file} from the folder {folder} to {target}.",
             "I want the {file} in {folder} moved to {target}.",
             "Transfer {folder}'s {file} to the folder {target}."),
            ("Relocate {file}: it is in {folder} and goes to {target}.",
             "{target} should hold the {file} now in {folder}."),
        ),
        Kind(
            "file_to_owner", "files", requests.file_to_owner, scripts.file_to_owner,
            ("Move the {file} in {folder} to the folder named after its owner.",
             "Put the {file} from {folder} into the folder with its owner's name."),
        ),
        Kind(
            "unit_sum", "units", requests.unit_sum, scripts.unit_sum,
            ("How many {to} are {value} {unit} and {extra} {to}?", "Add {extra} {to} to {value} {unit}, in {to}.",
             "What is {value} {unit} plus {extra} {to}, in {to}?", 
             "{value} {unit} and another {extra} {to}: how many {to}?",
             "Give {value} {unit} plus {extra} {to} as {to}.",
             "Convert {value} {unit} to {to} and add {extra} {to}.",
             "{extra} {to} on top of {value} {unit}: how many {to} in total?",
             "Sum of {value} {unit} and {extra} {to}, expressed in {to}?",
             "It took {value} {unit} and {extra} {to}. How many {to} was that?",
             "Count {value} {unit} together with {extra} {to}, in {to}.",
             "If I add {extra} {to} to {value} {unit}, how many {to} do I get?"),
            ("In {to}, what do {value} {unit} together with {extra} {to} make?",
             "I have {value} {unit} and then {extra} {to} more. How many {to} is that?"),
        ),
        Kind(
            "unit_rest", "units", requests.unit_rest, scripts.unit_rest,
            ("How many {to} are {value} {unit} less {less} {to}?", "Take {less} {to} from {value} {unit}, in {to}.",
             "What is {value} {unit} minus {less} {to}, in {to}?",
             "{value} {unit}, but {less} {to} are gone. How many {to} are left?",
             "Subtract {less} {to} from {value} {unit} and answer in {to}.",
             "From {value} {unit}, remove {less} {to}. How many {to} stay?",
             "{value} {unit} take away {less} {to} is how many {to}?",
             "I had {value} {unit} and used {less} {to}. How many {to} are there still?",
             "Convert {value} {unit} to {to} and subtract {less}.",
             "{less} {to} fewer than {value} {unit}: how many {to}?",
             "After {less} {to} of {value} {unit}, how many {to} remain?"),
            ("Out of {value} {unit} I use {less} {to}. What remains in {to}?",
             "In {to}: {value} {unit} without {less} {to}?"),
        ),
        Kind(
            "unit_times", "units", requests.unit_times, scripts.unit_times,
            ("How many {to} are {times} times {value} {unit}?", "{times} boxes of {value} {unit} each: how many {to}?",
             "Multiply {value} {unit} by {times}, in {to}.", "What is {value} {unit} taken {times} times, in {to}?",
             "We need {value} {unit} {times} times over. How many {to}?",
             "{value} {unit} for each of {times} people: how many {to} in all?",
             "Convert {value} {unit} to {to} and multiply by {times}.",
             "{times} of them take {value} {unit} each. How many {to} together?",
             "Give {times} times {value} {unit} as {to}.",
             "If one needs {value} {unit}, how many {to} do {times} need?",
             "{value} {unit} repeated {times} times: how many {to}?"),
            ("In {to}, how much is {times} lots of {value} {unit}?",
             "Every day {value} {unit}, for {times} days: the total in {to}?"),
        ),
        Kind(
            "unit_times_sum", "units", requests.unit_times_sum, scripts.unit_times_sum,
            ("How many {to} are {times} times {value} {unit} plus {extra} {to}?",
             "{times} boxes of {value} {unit} each and {extra} {to} more: how many {to}?"),
        ),
        Kind(
            "tool_missing", "any", requests.tool_missing, scripts.tool_missing,
            _ABSENT[:10], _ABSENT[10:],
        ),
        Kind(
            "no_tool_needed", "any", requests.no_tool_needed, scripts.no_tool_needed,
            ("{name}'s {item} voucher is {code}. Which voucher did I name?",
             "The door code for {name} by the {item} is {code}. Repeat the code.",
             "{name} got ticket {code} for the {item}. Which ticket is it?",
             "Note: {name}, {item}, box {code}. Which box did I say?",
             "I gave {name} badge {code} at the {item}. What badge number was it?",
             "{name}'s number for the {item} is {code}. What is the number?",
             "Remember {code}: it is {name}'s locker by the {item}. Which locker?",
             "The {item} of {name} has the tag {code}. Read me the tag.",
             "{name} told me {code} for the {item}. What did {name} tell me?"),
            ("Reference {code} is for {name} and the {item}. Say the reference again.",
             "{name} sits in room {code} with the {item}. Which room did I mention?"),
        ),
    )
}  # fmt: skip

COMPOSED = ("order_resize_by_name", "event_after", "file_to_owner", "unit_times_sum")
"""Kinds kept for test_compose: known tools in a combination that no training task needs."""
