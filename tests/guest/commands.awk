# SPDX-License-Identifier: GPL-2.0
# Of a document, the command lines and what is said that they print: lines of three fields with
# tabulators between them, the heading that they stand below, "command" or "output", and the line.
#
# A command line is what begins with "# " in an indented block. What follows up to the next one is its
# output. Behind three spaces stands what is told of it, and a backslash at the end goes on. The line of
# a unit that systemd is to execute is a command, too. Anything else that looks like a command is a
# mistake ("stray"): nobody would run it.

function tell(kind, text) { printf "%s\t%s\t%s\n", heading, kind, text }

FNR == 1 { block = open = 0; last = heading = "" }

# Headings: of Markdown, of reStructuredText, of the manual.
/^## / { heading = substr($0, 4); next }
/^(-----*|=====*)$/ && last != "" { heading = last }
/^\.SH / { heading = $2; manual = 1 }
{ last = $0 }

# The manual's examples are all that is not filled.
manual && /^\.nf/ { block = 1; next }
manual && /^\.fi/ { block = 0; next }
manual && /^\./ { next }
manual && block {
	gsub(/\\-/, "-")
	gsub(/\\\(aq|\\\*\(Aq/, "'")
	gsub(/\\&/, "")
	tell("command", $0)
	next
}
manual { next }

/^[^ ]/ { open = 0; next }
/^ *$/ { open = 0; next }
{ sub(/^ +/, "") }
going {
	sub(/   .*/, "")
	going = sub(/ *\\$/, " ", $0)
	text = text $0
	if (!going) tell("command", text)
	next
}
sub(/^# /, "") {
	open = 1
	sub(/   .*/, "")
	going = sub(/ *\\$/, " ", $0)
	text = $0
	if (!going) tell("command", text)
	next
}
sub(/^ExecStart=/, "") { tell("command", $0); next }
open { tell("output", $0); next }
/^(dms|dmsetup|u?mount|mkfs[.a-z0-9]*|blkdiscard|(lv|vg|pv)[a-z]+) [a-z0-9-]/ && !/[.;:,)]$/ { tell("stray", $0) }
