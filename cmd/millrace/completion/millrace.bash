# Completion of millrace(1) for bash: the program itself knows what fits.
_millrace() {
	local value cur=${COMP_WORDS[COMP_CWORD]} quoted=
	case $cur in
	[\"\']*) quoted=1 cur=${cur:1} ;;
	*) cur=${cur//\\/} ;;
	esac
	COMPREPLY=()
	while IFS=$'\t' read -r value _; do
		[ "$quoted" ] || printf -v value %q "$value"
		COMPREPLY+=("$value")
	done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$cur" 2>/dev/null)
}
complete -o default -F _millrace millrace
