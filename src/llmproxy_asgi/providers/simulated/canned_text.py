"""A long text to stream: the journey of a prompt through a gateway."""

TEXT = """\
A small question sets out

There was once a question of eleven words that wanted an answer. It had been typed in a hurry, with one hand, by \
a person who held a cup of tea in the other, and so it went out into the world slightly out of breath.

The first thing it met was a door. Behind the door sat a keeper who did not care in the least what the question was \
about. "Who sent you?" the keeper asked. The question did not know; it had never seen its sender from the outside. \
But it carried a small card that it had not noticed before, and the keeper read the card, nodded, and let it through. \
"Leave the card with me," said the keeper. "No one beyond this room needs to see it."

The second room was full of signposts. Some were painted, some were carved, and a few were only chalk on slate, \
because they changed so often. A clerk ran her finger down a list. "You want a clever one," she said. "There are \
three who answer to that name. The first is resting, he has been asked too much this morning. The second is quick. The \
third is slow but never ill. We shall try the second."

In the third room the question was asked to change its clothes. It had come dressed as one country dresses its \
questions, and the second clever one lived in another country, where coats are buttoned on the other side. A tailor \
turned every seam with great care. "I have lost nothing," the tailor promised, "and where I could not keep a ribbon, I \
have written down which ribbon it was."

Then came the long hall, where there is nothing to do but wait. A clock hung on the wall, and a second clock beneath \
it, and each of them measured a different kind of patience. The question looked at them for a while. Somewhere behind \
the far wall something very large was thinking.

When the answer came, it did not come all at once. It came a word at a time, like people leaving a theatre, and \
no one held the first word back to wait for the last. The tailor turned the seams the other way as the words went by. \
The clerk made a mark in a ledger: so many words in, so many words out. The keeper, who had kept the card safe, opened \
the door before anybody knocked.

And the person with the cup of tea saw the first word appear, and leaned forward, and forgot to drink. The tea went \
cold. It did not matter. There are worse reasons for cold tea than an answer that arrives while one is still watching.

As for the question, it was never seen again. Questions seldom are. But in the second room, under a signpost that was \
only chalk, the clerk had kept a note of how long it took and which of the clever ones had been kind. The next \
question, she thought, would have it a little easier. Then she sharpened her chalk, because the list had just changed.
"""
