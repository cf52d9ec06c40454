/* Words and text that grow: what the other parts of quick-start make command lines and questions of. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quick.h"

void *allocate(void *old, size_t bytes)
{
    void *found = realloc(old, bytes);
    if (found == NULL)
        _exit(70);
    return found;
}

void add_bytes(struct text *text, const char *bytes, size_t count)
{
    if (text->used + count + 1 > text->room) {
        text->room = 2 * (text->used + count + 1);
        text->at = allocate(text->at, text->room);
    }
    memcpy(text->at + text->used, bytes, count);
    text->used += count;
    text->at[text->used] = 0;
}

void add(struct text *text, const char *bytes)
{
    add_bytes(text, bytes, strlen(bytes));
}

void add_word(struct words *words, char *word)
{
    words->word = allocate(words->word, (words->count + 2) * sizeof(char *));
    words->word[words->count++] = word;
    words->word[words->count] = NULL;
}

void add_quoted(struct text *text, const char *word)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_";
    if (*word && strspn(word, plain) == strlen(word)) {
        add(text, word);
        return;
    }
    add(text, "'");
    for (; *word; word++) {
        if (*word == '\'')
            add(text, "'\"'\"'");
        else
            add_bytes(text, word, 1);
    }
    add(text, "'");
}

char *join(const struct words *words)
{
    struct text text = {0};
    for (int i = 0; i < words->count; i++) {
        if (i)
            add(&text, " ");
        add_quoted(&text, words->word[i]);
    }
    return text.at;
}

int is_made_of(const char *text, size_t length, const char *accepted)
{
    return length && strspn(text, accepted) >= length;
}
