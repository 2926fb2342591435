# Turns our plain comments into Doxygen's: a comment before a declaration documents it, one behind it
# documents what stands before it, and the first one of a header documents the file. What is markup to
# Doxygen alone is escaped.
function escaped(s) {
  gsub(/\\/, "\\\\", s)
  gsub(/[@#<>&%*~]/, "\\\\&", s)
  gsub(/ al\. /, " al.\\ ", s)  # no end of a sentence
  return s
}

# The first comment of a file, up to a line that is none.
FNR == 1 { in_head = 1; trailing = 0; depth = 0 }
in_head && /^\/\// {
  print (FNR == 1 ? "/// \\file\n/// " : "/// ") escaped(substr($0, 3))
  next
}
{ in_head = 0 }

# Preprocessor lines, and the ends of namespaces and guards, say nothing to a reader of the pages.
/^ *#/ || /^ *}  \/\// { trailing = 0; print; next }

# A line that is all comment: it goes on with a comment behind code if it begins in the same column.
/^ *\/\/( |$)/ {
  column = index($0, "//")
  text = escaped(substr($0, column + 2))
  print substr($0, 1, column - 1) (trailing == column ? "///< " : "///") text
  next
}

# A comment behind the beginning of a type is of the type: Doxygen wants it before.
/^ *(struct|class|enum|union) .*{ +\/\/ / {
  column = index($0, "// ")
  trailing = 0
  print "/**" escaped(substr($0, column + 2)) " */ " substr($0, 1, column - 1)
  next
}

# Code, perhaps with a comment behind it.
{
  column = match($0, /  \/\/ /)
  if (column == 0) {
    trailing = 0
    print
    next
  }
  column += 2
  trailing = column
  print substr($0, 1, column - 1) "///<" escaped(substr($0, column + 2))
}
