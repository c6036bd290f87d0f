# Completion of deis for fish, by `deis completion fish`.
function __deis_complete
    set -l lines (deis __complete -- (commandline -opc) (commandline -ct) 2>/dev/null)
    if test "$lines[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $lines
    end
end
complete -c deis -f -a '(__deis_complete)'
