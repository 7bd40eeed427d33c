from __future__ import annotations

import pytest

from pipeline.errors import UsageError
from pipeline.listing import list_images


def listing(*keys, classes=None):
    return list_images(((key, 10) for key in keys), uri="here", classes=classes)


def labels(found):
    return {item.key: found.classes[item.label] for item in found.items}


def test_the_class_is_the_folder_that_the_image_lies_in():
    found = listing("x/b/1.jpg", "x/b/2.PNG", "x/y/a/1.jpg")
    assert found.classes == ("a", "b")
    assert labels(found) == {"x/b/1.jpg": "b", "x/b/2.PNG": "b", "x/y/a/1.jpg": "a"}


def test_named_classes_are_the_nearest_folder_of_that_name_in_the_order_given():
    found = listing("b/old/1.jpg", "a/new/b/1.jpg", "a/2.jpg", "c/3.jpg", classes=["b", "a"])
    assert found.classes == ("b", "a")
    assert labels(found) == {"b/old/1.jpg": "b", "a/new/b/1.jpg": "b", "a/2.jpg": "a"}
    assert found.ignored == {"in no class folder": 1}


def test_what_is_no_image_by_its_name_is_passed_over_and_counted():
    found = listing(
        *("a/1.jpg", "b/1.jpg", "top.jpg", "a/notes.txt", "a/.DS_Store", "b/Thumbs.db"),
        *("__MACOSX/a/._1.jpg", ".git/b/2.jpg", "b/README", "a/1.jpg"),
    )
    assert sorted(item.key for item in found.items) == ["a/1.jpg", "b/1.jpg"]
    assert found.ignored == {
        ".txt": 1,
        ".DS_Store": 1,
        ".db": 1,
        ".jpg": 2,  # in folders of the system's own
        "no suffix": 1,
        "name stands twice": 1,
        "in no class folder": 1,
    }


@pytest.mark.parametrize(
    ("keys", "classes", "message"),
    [
        ([], None, "no images under here: it is empty"),
        (["a/1.txt"], None, r"no images under here: only 1 \.txt"),
        (["1.jpg", "2.jpg"], None, r"no class folders under here: .*\(2\) lie directly in it"),
        (["a/1.jpg"], None, "at least two classes, received 1: a"),
        (["a/1.jpg", "b/"], None, "class folder b under here has no images"),
        (["a/1.jpg", "b/.DS_Store"], None, "class folder b under here has no images"),
        (["a/1.jpg", "b/"], ["a", "b"], "no images of class b"),
        (["cats/1.jpg", "dogs/1.jpg"], ["cat", "dogs"], "did you mean cats?"),
        (["a/1.jpg", "b/1.jpg"], ["a", "a"], "named twice"),
        (["a/1.jpg", "b/1.jpg"], ["a", ""], "no folder name"),
    ],
)
def test_what_cannot_be_labelled_is_said_in_a_line(keys, classes, message):
    with pytest.raises(UsageError, match=message):
        listing(*keys, classes=classes)


def test_a_folder_of_notes_beside_the_classes_is_no_class():
    assert listing("a/1.jpg", "b/1.jpg", "docs/readme.txt").classes == ("a", "b")
