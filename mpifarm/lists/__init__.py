"""Lists as users have them: shell lines, other tools' lists, lists that change."""
