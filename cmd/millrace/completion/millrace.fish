# Completion of millrace(1) for fish: the program itself knows what fits.
function __millrace_complete
	set -l words (commandline -opc) (commandline -ct)
	set -l list ($words[1] __complete -- $words[2..-1] 2>/dev/null)
	if count $list >/dev/null
		printf '%s\n' $list
	else
		__fish_complete_path (commandline -ct)
	end
end
complete -c millrace -f -a '(__millrace_complete)'
